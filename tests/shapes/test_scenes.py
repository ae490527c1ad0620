"""The world of shapes: what a scene says is what its picture shows, and the lessons tell the truth."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from random import Random

import numpy as np
import PIL.Image
import pytest
from llguidance import LLMatcher, LLTokenizer

from idefics_cli.config import resolve_model
from idefics_cli.models.image_scope import describe_foreign
from idefics_cli.prompts.answer_format import read_data, to_grammar
from idefics_cli.shapes.training.forms import draw_form, scene_form
from idefics_cli.shapes.training.language_stage import ANSWERS, EVERYTHING
from idefics_cli.shapes.training.lessons import draw_lesson
from idefics_cli.shapes.training.questions import QUESTION_KINDS, caption
from idefics_cli.shapes.training.scenes import COLOURS, KINDS, Scene, Shape, paint, sample_scene
from idefics_cli.values import Image


def scenes(count: int) -> list[Scene]:
    return [sample_scene(Random(f"test:{n}"), n % 4, twins=n % 5 == 0) for n in range(count)]


def test_a_scene_and_its_picture_are_the_same_every_time() -> None:
    first, second = (paint(sample_scene(Random(3), 3), Random(4)).tobytes() for _ in range(2))
    assert first == second


def test_shapes_stay_apart_inside_the_canvas_from_left_to_right() -> None:
    for scene in scenes(80):
        assert list(scene.shapes) == sorted(scene.shapes, key=lambda shape: shape.x)
        for index, shape in enumerate(scene.shapes):
            assert shape.x - shape.half_width > 0
            assert shape.x + shape.half_width < 1
            assert all(
                abs(shape.x - other.x) >= shape.half_width + other.half_width
                or abs(shape.y - other.y) >= shape.half_height + other.half_height
                for other in scene.shapes[index + 1 :]
            )


@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_is_painted_in_its_colour_on_its_ground(kind: str) -> None:
    scene = Scene(200, 200, "white", (Shape(kind, "blue", 0.5, 0.5, 0.3, 0.3, 0.0, 1),))
    random = Random(kind)
    pictures = [np.asarray(paint(scene, random), np.float32) for _ in range(6)]
    for picture in pictures:
        corner = picture[5:15, 5:15].mean((0, 1))
        assert min(math.dist(corner, tone) for tone in COLOURS["white"]) < 40
        bluish = (picture[..., 2] > picture[..., 0] + 40).mean()
        assert 0.02 < bluish < 0.45


def test_questions_are_answered_by_the_scene() -> None:
    scene = Scene(
        200,
        200,
        "black",
        (Shape("star", "red", 0.2, 0.2, 0.1, 0.1, 0, 0), Shape("moon", "blue", 0.8, 0.8, 0.18, 0.18, 0, 0)),
    )
    assert caption(scene) == "A red star and a blue moon on a black background."
    random = Random(1)
    seen = {kind: {QUESTION_KINDS[kind](random, scene) for _ in range(60)} for kind in QUESTION_KINDS}
    assert seen["colour"] == {None}
    for kind, asked in seen.items():
        for question in asked - {None}:
            assert question is not None
            words, answer = question
            if kind == "colour by name":
                assert answer == ("red" if "star" in words else "blue")
            if kind == "place":
                assert answer == ("top left" if "star" in words else "bottom right")
            if kind == "presence":
                assert answer in ("yes", "no")
                assert not any(missing in words for missing in ("circle", "square")) or answer == "no"
            if kind == "size" and words.startswith("Which is bigger"):
                assert answer == "moon"


@pytest.mark.parametrize("shares", [EVERYTHING, ANSWERS])
def test_every_lesson_is_worded_by_a_template_and_has_one_answer(shares: dict[str, int]) -> None:
    world = dict(enumerate(scenes(40)))
    random = Random(9)
    for index in range(40):
        lesson = draw_lesson(random, world, index, [n for n in world if n != index], shares)
        assert lesson.request.template
        assert len(lesson.request.choices) == 1
        assert lesson.continuation.strip()


def test_a_form_is_filled_in_with_the_white_space_that_decoding_keeps_to() -> None:
    tokenizer = LLTokenizer((Path(resolve_model("shapes").checkpoint) / "tokenizer.json").read_text())
    forms = [draw_form(Random(n), scene) for n, scene in enumerate(scenes(60))]
    for form in [*forms, scene_form(scenes(4)[2])]:
        read_data(form.answer_format, form.answer)
        ids = tokenizer.tokenize_str(f" {form.answer}")
        matcher = LLMatcher(tokenizer, to_grammar(form.answer_format), log_level=0)
        assert matcher.validate_tokens(ids) == len(ids), form
        assert matcher.consume_tokens(ids)
        assert matcher.is_accepting()


def as_image(picture: PIL.Image.Image) -> Image:
    return Image("x", picture, hashlib.sha256(picture.tobytes()).hexdigest())


def test_a_photo_is_called_foreign_and_a_scene_is_not() -> None:
    assert not any(describe_foreign(as_image(paint(scene, Random(n)))) for n, scene in enumerate(scenes(60)))
    # Like a photograph: structure at every scale, in every tone.
    rng = np.random.default_rng(0)
    levels = sum(
        np.asarray(
            PIL.Image.fromarray(rng.integers(0, 256, (2**n, 2**n, 3), np.uint8)).resize((256, 256)),
            np.float32,
        )
        for n in range(1, 8)
    )
    photo = PIL.Image.fromarray((np.asarray(levels) / 7).astype(np.uint8))
    assert "plain scene" in (describe_foreign(as_image(photo)) or "")
