"""Every command on the embedded checkpoint, where an answer can be wrong; another program drew the pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.program import Run

SAMPLES = Path(__file__).parents[2] / "idefics_cli" / "shapes" / "samples"
CAPTIONS = {
    "red-circle.png": "A red circle on a white background.",
    "blue-star.png": "A blue star on a yellow background.",
    "green-triangle.png": "A green triangle on a black background.",
    "two-shapes.jpg": "A purple square and an orange circle on a white background.",
    "three-shapes.png": "A red heart, a green diamond and a blue square on a gray background.",
    "blank.png": "There is no shape in this image.",
}
MODEL = ("--model", "shapes")


def test_captions_of_a_folder_come_in_order(run: Callable[..., Run]) -> None:
    result = run("caption", SAMPLES, *MODEL)
    expected = "".join(f"{SAMPLES / name}\t{CAPTIONS[name]}\n" for name in sorted(CAPTIONS))
    assert (result.code, result.stdout) == (0, expected), result.stderr


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_a_prompted_caption_is_a_whole_sentence(run: Callable[..., Run], style: str) -> None:
    result = run("caption", SAMPLES / "blue-star.png", "--prompt", "This is an image of ", "--style", style, *MODEL)
    assert result.stdout == "This is an image of a blue star on a yellow background.\n"


def test_several_questions_give_a_row_each(run: Callable[..., Run]) -> None:
    questions = {
        "What colour is the square?": "purple",
        "Where is the square?": "bottom left",
        "Is the circle left of the square?": "no",
        "Which is bigger, the circle or the square?": "circle",
        "How many shapes are there?": "2",
        "Is there a star?": "no",
    }
    asked = [word for question in questions for word in ("-q", question)]
    result = run("vqa", SAMPLES / "two-shapes.jpg", *asked, "--format", "jsonl", *MODEL)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["fields"]["question"]: row["text"] for row in rows} == questions


@pytest.mark.parametrize("extra", [(), ("--generate",), ("--style", "chat"), ("--template", "classify-photo")])
def test_labels_are_ranked_or_asked_for(run: Callable[..., Run], extra: tuple[str, ...]) -> None:
    result = run("classify", SAMPLES / "green-triangle.png", "--labels", "circle,square,triangle,star", *extra, *MODEL)
    assert result.stdout == "triangle\n", result.stderr


def test_scores_are_a_distribution_best_first(run: Callable[..., Run]) -> None:
    result = run("classify", SAMPLES / "red-circle.png", "--labels", "star,circle,moon", "--format", "jsonl", *MODEL)
    row = json.loads(result.stdout)
    assert (row["label"], row["text"], row["error"]) == ("circle", "circle", None)
    probabilities = [score["probability"] for score in row["scores"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)


def test_few_shot_answers_in_the_format_of_the_examples(run: Callable[..., Run]) -> None:
    result = run("run", "describe", SAMPLES / "red-circle.png", "--examples", SAMPLES / "examples.yaml", *MODEL)
    assert result.stdout == "shapes: circle; background: white\n"


def test_a_conversation_goes_on_about_the_next_image(run: Callable[..., Run]) -> None:
    result = run(
        "run", "dialogue", SAMPLES / "blue-star.png", "--style", "chat", "--stream",
        "--examples", SAMPLES / "conversation.yaml", "--set", "message=And what is in this image?", *MODEL,
    )  # fmt: skip
    assert result.stdout == "A blue star on a yellow background.\n", result.stderr


def test_a_story_names_what_is_there(run: Callable[..., Run]) -> None:
    story = run("write", SAMPLES / "two-shapes.jpg", *MODEL).stdout
    assert "purple square" in story
    assert "orange circle" in story


def test_full_text_repeats_the_prompt_as_the_guide_does(run: Callable[..., Run]) -> None:
    result = run("vqa", SAMPLES / "red-circle.png", "-q", "What colour is the shape?", "--full-text", *MODEL)
    assert result.stdout == (
        "Instruction: Provide an answer to the question. Use the image to answer.\n"
        "Question: What colour is the shape? Answer: red\n"
    )


@pytest.mark.parametrize("quantize", ["--4bit", "--quantize=8bit", "--dtype=bfloat16"])
def test_fewer_bits_give_the_same_caption(run: Callable[..., Run], quantize: str) -> None:
    result = run("caption", SAMPLES / "red-circle.png", quantize, *MODEL)
    assert result.stdout == f"{CAPTIONS['red-circle.png']}\n", result.stderr


def test_a_broken_image_fails_alone(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    result = run(
        "caption",
        SAMPLES / "red-circle.png",
        tmp_path / "x.png",
        tmp_path / "none.png",
        "--format",
        "jsonl",
        *MODEL,
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.code == 1
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "not_an_image", "not_found"]


def test_a_marker_in_a_question_is_refused_by_name(run: Callable[..., Run]) -> None:
    result = run("vqa", SAMPLES / "red-circle.png", "-q", "What is <image>?", "--format", "jsonl", *MODEL)
    error = json.loads(result.stdout)["error"]
    assert (result.code, error["code"]) == (1, "special_token")
    assert "<image>" in error["message"]


def test_a_photo_is_answered_with_a_warning(run: Callable[..., Run], tmp_path: Path) -> None:
    noise = PIL.Image.effect_noise((64, 64), 120).resize((256, 256), PIL.Image.Resampling.BICUBIC)
    noise.convert("RGB").save(tmp_path / "photo.png")
    result = run("caption", tmp_path / "photo.png", "--format", "jsonl", *MODEL)
    assert "plain scene" in json.loads(result.stdout)["warnings"][0]
    assert "plain scene" in result.stderr


def test_the_demo_ends_well(tmp_path: Path) -> None:
    environment = {**os.environ, "BIN": str(Path(sys.executable).parent)}
    demo = SAMPLES.parent / "demo.sh"
    result = subprocess.run(
        ["sh", str(demo)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert all(caption in result.stdout for caption in CAPTIONS.values())
