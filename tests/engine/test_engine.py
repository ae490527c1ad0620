"""The promise of the engine: whatever it shares, keeps or packs, an answer is that of the full prompt alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation, Generation
from idefics_cli.engine.oom_retry import Done
from idefics_cli.models.families.family import Encoded
from idefics_cli.values import Decoding, Image, Prompt
from tests.engine.oracle import opened, plain_answer, run_all
from tests.models.tiny import KINDS, document, picture, user

SIZES = [(40, 30), (30, 60), (80, 20), (28, 28), (50, 50), (33, 44)]
IMAGES = [picture(seed, size) for seed, size in enumerate(SIZES)]
QUESTIONS = (
    "",
    "Describe this image.",
    "Question: yes no Answer:",
    "An image of the Eiffel Tower at night. Fun",
)
GREEDY = Decoding(max_new_tokens=10)
BEAMS = replace(GREEDY, num_beams=3, length_penalty=0.5)


def prompts() -> Iterator[tuple[Prompt, list[Image]]]:
    """0, 1 and 4 shots, several questions about an image, mixed lengths and numbers of images, text alone."""
    for count in (0, 1, 4):
        shots: list[str | Image] = ["Instruction: Use the image to answer.\n"]
        for image in IMAGES[:count]:
            shots += [image, "Describe this image. This picture depicts a dog.\n"]
        for number, question in enumerate(QUESTIONS):
            own = IMAGES[4 + number % 2]
            yield document(*shots, own, question), [*IMAGES[:count], own]
    yield document("Instruction: no image at all?"), []
    yield (user("And who is that?"),), []
    yield document("one", *IMAGES[:3], "Question:"), IMAGES[:3]
    yield document("one", IMAGES[0], "two", IMAGES[1], IMAGES[0], "Question:"), [*IMAGES[:2], IMAGES[0]]


def encoded(kind: str) -> list[Encoded]:
    family, _ = opened(kind)
    return [family.encode(prompt, images) for prompt, images in prompts()]


def eager(kind: str) -> Engine:
    """An engine that shares wherever it can, as the prompts of these tests are short."""
    family, model = opened(kind)
    engine = Engine(model, family)
    engine._pass_tokens = 2
    return engine


def answers(engine: Engine, rows: list[Encoded], decoding: Decoding, size: int = 9) -> list[Generation]:
    done = run_all(engine, [Continuation(row, decoding) for row in rows], rows=size)
    made = [one.outcome.generation for one in done if isinstance(one, Done)]
    return [one for one in made if one is not None]


@pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])
@pytest.mark.parametrize("decoding", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_an_answer_is_that_of_the_full_prompt_alone(kind: str, decoding: Decoding) -> None:
    rows = encoded(kind)
    expected = [plain_answer(kind, row, decoding) for row in rows]
    assert len({answer.text for answer in expected}) > len(rows) // 2, "answers alike show nothing"
    engine = eager(kind)
    assert answers(engine, rows, decoding) == expected
    assert answers(engine, rows[::-1], decoding, size=2) == expected[::-1], "after what was kept"
    assert answers(eager(kind), rows[5:7] * 2, decoding, size=1) == expected[5:7] * 2


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics3"])
@pytest.mark.parametrize("count", range(1, 10))
def test_any_number_of_rows(kind: str, count: int) -> None:
    rows = encoded(kind)[4 : 4 + count]
    expected = [plain_answer(kind, row, GREEDY) for row in rows]
    engine = eager(kind)
    (outcomes,) = [engine.run([Continuation(row, GREEDY) for row in rows])]
    assert [outcome.generation for outcome in outcomes] == expected, "without any prefix"
    assert answers(engine, rows, GREEDY) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "decoding",
    [
        replace(GREEDY, temperature=1.5, seed=4),
        replace(GREEDY, repetition_penalty=1.5),
        replace(GREEDY, no_repeat_ngram_size=2),
        replace(GREEDY, stop=("e", "a")),
        replace(BEAMS, temperature=1.5, seed=4),
        replace(BEAMS, repetition_penalty=1.5, stop=("e",)),
    ],
    ids=["sampled", "penalty", "ngrams", "stops", "sampled-beams", "penalty-beams"],
)
def test_whatever_the_decoding(kind: str, decoding: Decoding) -> None:
    rows = encoded(kind)[3:9]
    expected = [plain_answer(kind, row, decoding) for row in rows]
    assert answers(eager(kind), rows, decoding) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_goes_through_the_vision_tower_once(kind: str) -> None:
    _, model = opened(kind)
    seen: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        seen.append(len(inputs["pixel_values"]))

    engine = eager(kind)
    rows = encoded(kind)
    hook = model.model.vision_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        answers(engine, rows, GREEDY)
        answers(engine, rows, GREEDY)
    finally:
        hook.remove()
    tiles = {span.digest: one.values.shape[0] for row in rows for span, one in zip(row.spans, row.pixels, strict=True)}
    assert sum(seen) == sum(tiles.values())


@pytest.mark.parametrize("kind", KINDS)
def test_shots_are_run_once_for_a_folder(kind: str) -> None:
    """Window after window, with new images each time: the tokens of the shots are run in the first one only."""
    family, model = opened(kind)
    engine = eager(kind)
    run: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        run.append(inputs["input_ids"].numel())

    shots = [item for image in IMAGES[:4] for item in (image, "Describe this image. This picture depicts a dog.\n")]
    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    totals, shared = [], []
    try:
        for window in range(3):
            own = [picture(100 + 4 * window + place) for place in range(4)]
            works = [
                Continuation(family.encode(document(*shots, image, "Describe"), [*IMAGES[:4], image]), GREEDY)
                for image in own
            ]
            done = run_all(engine, works, rows=4)
            totals.append(sum(run))
            shared.append([one.outcome.shared_tokens for one in done if isinstance(one, Done)])
            run.clear()
    finally:
        hook.remove()
    length = shared[1][0]
    assert length > len(works[0].encoded.ids) // 2
    assert shared == [[0, length, length, length], [length] * 4, [length] * 4]
    assert totals[0] - length == totals[1] == totals[2]


def test_single_requests_find_what_they_share() -> None:
    """A server gets them one by one: the second shows what is common, the third takes it from the cache."""
    engine = eager("idefics2")
    rows = encoded("idefics2")[9:12]
    shared = [run_all(engine, [Continuation(row, GREEDY)], rows=8)[0] for row in rows]
    assert [one.outcome.shared_tokens > 0 for one in shared if isinstance(one, Done)] == [False, False, True]


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics2"])
def test_without_memory_for_caches_answers_are_the_same(kind: str) -> None:
    family, model = opened(kind)
    rows = encoded(kind)
    engine = Engine(model, family, cache_bytes=0)
    engine._pass_tokens = 2
    assert answers(engine, rows, GREEDY) == answers(eager(kind), rows, GREEDY)
    assert engine._store.used_bytes == 0


def test_a_sliding_window_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding between a prefix and its rows would count as distance in Mistral."""
    family, model = opened("idefics2")
    for config in (family.text_config, model.model.text_model.config):
        monkeypatch.setattr(config, "sliding_window", 40)
    rows = encoded("idefics2")
    expected = [plain_answer("idefics2", row, GREEDY) for row in rows]
    assert answers(eager("idefics2"), rows, GREEDY) == expected


def test_beams_run_the_prompt_once() -> None:
    _, model = opened("idefics3")
    run: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        run.append(tuple(inputs["input_ids"].shape))

    row = encoded("idefics3")[1]
    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        eager("idefics3").run([Continuation(row, BEAMS)])
    finally:
        hook.remove()
    assert run[0] == (1, len(row.ids) - 1)
    assert set(run[1:]) == {(3, 1)}


def test_keys_of_an_image_are_projected_once() -> None:
    """The model does it anew for every token; between the requests nothing is left behind."""
    family, model = opened("idefics-resampler")
    projection = model.model.gated_cross_attn_layers[0].cross_attn.k_proj
    calls: list[int] = []
    original = projection.__class__.forward

    def count(given: torch.Tensor) -> torch.Tensor:
        calls.append(len(given))
        result: torch.Tensor = original(projection, given)
        return result

    projection.forward = count
    try:
        question = (document(IMAGES[0], "Describe"), document(IMAGES[0], "Question"))
        rows = [family.encode(prompt, IMAGES[:1]) for prompt in question]
        eager("idefics-resampler").run([Continuation(row, GREEDY) for row in rows])
        assert calls == [1], "once for two rows that see the same image"
        assert projection.forward is count
    finally:
        del projection.forward
