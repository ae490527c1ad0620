"""The vision tower has batches of its own: images of requests that wait fill up a pass, and harm nobody there."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from idefics_cli.engine.engine import Engine
from idefics_cli.engine.flow import Flow
from idefics_cli.engine.generate import Continuation
from idefics_cli.engine.oom_retry import Done
from idefics_cli.engine.vision_ahead import VISION_PACES, VisionPace
from idefics_cli.errors import InternalError, ItemError
from idefics_cli.models.families.placeholder_family import PlaceholderFamily
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.values import Decoding, ModelSpec
from tests.engine.oracle import opened, plain_answer
from tests.models.others import other
from tests.models.tiny import document, picture, user

COUNT, ROWS, PASS = 12, 3, 4
TILES = {"idefics": 1, "idefics2": 5, "idefics3": 5}


def pace_of(kind: str, *, looks_ahead: bool) -> VisionPace:
    """Passes of four images."""
    return VisionPace(PASS * TILES[kind], looks_ahead)


def works_of(kind: str, questions: int = 1) -> list[Continuation]:
    """Requests about as many images, with answers of several lengths, so that few join at a time."""
    family, _ = opened(kind)
    works = []
    for seed in range(COUNT):
        image = picture(seed, (28, 28))
        for question in range(questions):
            prompt = document("An image: ", image, "dog " * (1 + seed % 3) + "abc"[question])
            decoding = Decoding(max_new_tokens=1 + (5 * seed + question) % 7)
            works.append(Continuation(family.encode(prompt, [image]), decoding))
    return works


@contextmanager
def watched(model: Any, most: int = 99, broken: Any = None) -> Iterator[list[int]]:
    """The images in each pass of the vision tower. More than `most` do not fit, and one is `broken`."""
    passes: list[int] = []

    def check(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        pixels = inputs["pixel_values"]
        passes.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if broken is not None and any(torch.equal(one, broken) for one in pixels):
            raise ValueError("no such patch")

    hook = model.model.vision_model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def run(engine: Engine, works: Sequence[Continuation]) -> list[Done | ItemError]:
    """Handed over as many as it asks for."""
    coming = list(works)

    def take(count: int, wait: bool) -> Sequence[Continuation] | None:
        taken = coming[:count]
        del coming[:count]
        return taken or None

    done = {id(work): one for work, one in (pair for pair in Flow(engine, take, ROWS).run() if pair is not None)}
    return [done[id(work)] for work in works]


def check(kind: str, works: Sequence[Continuation], done: Sequence[Done | ItemError]) -> None:
    for work, one in zip(works, done, strict=True):
        assert isinstance(one, Done)
        assert one.outcome.generation == plain_answer(kind, work.encoded, work.decoding)


@pytest.mark.parametrize(("kind", "questions"), [("idefics", 1), ("idefics", 3), ("idefics2", 1), ("idefics3", 3)])
def test_images_of_waiting_requests_fill_up_a_pass(kind: str, questions: int) -> None:
    """Several questions share an image, which is in their prefix."""
    family, model = opened(kind)
    works = works_of(kind, questions)
    with watched(model) as apart:
        run(Engine(model, family, vision_pace=pace_of(kind, looks_ahead=False)), works)
    with watched(model) as ahead:
        done = run(Engine(model, family, vision_pace=pace_of(kind, looks_ahead=True)), works)
    check(kind, works, done)
    assert sum(apart) == sum(ahead) == COUNT * TILES[kind]
    assert len(ahead) < len(apart)
    assert max(ahead) == (PASS if questions == 1 else 2) * TILES[kind], "no more wait than two batches"


@pytest.mark.parametrize(("kind", "questions"), [("idefics", 1), ("idefics", 2), ("idefics3", 2)])
@pytest.mark.parametrize("images", [0, 2, 3, 5])
def test_nothing_is_made_ahead_that_is_gone_before_it_is_used(kind: str, images: int, questions: int) -> None:
    """A cache for the features of so many images: none is encoded more often than without looking ahead."""
    family, model = opened(kind)
    works = works_of(kind, questions)
    probe = Engine(model, family)
    run(probe, works[:1])
    room = images * probe.measure()["cache_bytes"]
    with watched(model) as apart:
        run(Engine(model, family, cache_bytes=room, vision_pace=pace_of(kind, looks_ahead=False)), works)
    with watched(model) as ahead:
        engine = Engine(model, family, cache_bytes=room, vision_pace=pace_of(kind, looks_ahead=True))
        done = run(engine, works)
    check(kind, works, done)
    assert engine.measure()["cache_bytes"] <= room
    assert sum(ahead) <= sum(apart)


@pytest.mark.parametrize("most", [1, 3])
def test_what_does_not_fit_beside_others_is_encoded_without_them(most: int) -> None:
    family, model = opened("idefics")
    works = works_of("idefics")
    with watched(model, most) as passes:
        engine = Engine(model, family, vision_pace=VisionPace(most, looks_ahead=True))
        engine._features.ahead._tiles = 8
        done = run(engine, works)
    check("idefics", works, done)
    assert 1 <= len([one for one in passes if one > most]) <= 3, "fewer after each time"


@pytest.mark.parametrize("kind", ["idefics"])
def test_an_image_that_fails_a_pass_fails_its_own_request_alone(kind: str) -> None:
    family, model = opened(kind)
    works = works_of(kind)
    with watched(model) as passes:
        run(Engine(model, family, vision_pace=pace_of(kind, looks_ahead=False)), works)
    marked = cast(PlaceholderFamily, family)
    bad = works[7].encoded.pixels[0].values
    broken = marked.pixel_table.look_up(bad)[0]
    with watched(model, broken=broken) as passes:
        done = run(Engine(model, family, vision_pace=pace_of(kind, looks_ahead=True)), works)
    assert isinstance(done[7], InternalError)
    check(kind, [*works[:7], *works[8:]], [*done[:7], *done[8:]])
    assert max(passes) > 1


def test_a_pass_is_made_when_it_is_needed_where_nothing_is_gained() -> None:
    assert not VISION_PACES["cpu"].looks_ahead
    family, model = opened("idefics")
    with watched(model) as passes:
        run(Engine(model, family), works_of("idefics"))
    with watched(model) as apart:
        run(Engine(model, family, vision_pace=pace_of("idefics", looks_ahead=False)), works_of("idefics"))
    assert passes == apart


@pytest.mark.parametrize(("kind", "most"), [("pixtral", 1), ("qwen2_vl", 4), ("llava_onevision", 4)])
def test_a_pass_holds_as_many_images_as_the_tower_gains_by(kind: str, most: int) -> None:
    """Pixtral's takes the square of them; patches and tiles of tiles are counted as what they are."""
    spec = ModelSpec(str(other(kind)))
    family = open_family(spec)
    model = load_model(spec, family)
    images = [picture(seed, (28, 28)) for seed in range(8)]
    rows = [family.encode((user(image, "What?"),), [image]) for image in images]
    counts: list[int] = []
    own = model.model.get_image_features

    @functools.wraps(own)
    def count(*given: Any, **named: Any) -> Any:
        counts.append(len(named["pixel_values"]) if kind != "qwen2_vl" else len(named["image_grid_thw"]))
        return own(*given, **named)

    model.model.get_image_features = count
    tiles = cast(PlaceholderFamily, family).count_tiles(rows[0].pixels[0])
    engine = Engine(model, family)
    run(engine, [Continuation(row, replace(Decoding(), max_new_tokens=2)) for row in rows])
    assert sum(counts) == len(images)
    assert max(counts) <= max(1, most // tiles)
