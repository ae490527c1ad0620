"""Rows come and go at any step, in any company: each answer is that of its full prompt alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.engine.decoder import Pace
from idefics_cli.engine.engine import Engine, Work
from idefics_cli.engine.flow import Flow
from idefics_cli.engine.generate import Continuation, Generation
from idefics_cli.engine.listener import Listener
from idefics_cli.engine.oom_retry import Done
from idefics_cli.engine.vision_ahead import VisionPace
from idefics_cli.errors import InternalError, ItemError
from idefics_cli.models.families.family import Encoded
from idefics_cli.values import Decoding, Message, TextPart
from tests.engine.oracle import opened, plain_answer, run_all
from tests.engine.test_engine import prompts
from tests.models.tiny import KINDS

GREEDY = Decoding()
DECODINGS = (
    GREEDY,
    replace(GREEDY, temperature=1.5, seed=4),
    replace(GREEDY, temperature=0.7, top_p=0.9, top_k=20, seed=2),
    replace(GREEDY, repetition_penalty=1.5),
    replace(GREEDY, no_repeat_ngram_size=2),
    replace(GREEDY, stop=("e", "a")),
    replace(GREEDY, num_beams=2),
)
LENGTHS = (0, 1, 2, 5, 13)
Case = tuple[int, int, int]


@functools.cache
def rows_of(kind: str) -> tuple[Encoded, ...]:
    family, _ = opened(kind)
    return tuple(family.encode(prompt, images) for prompt, images in prompts())


@functools.cache
def expected(kind: str, case: Case) -> Generation:
    row, decoding = rows_of(kind)[case[0]], replace(DECODINGS[case[1]], max_new_tokens=case[2])
    return plain_answer(kind, row, decoding) if case[2] else Generation("", 0, "length")


def work_of(kind: str, case: Case) -> Continuation:
    return Continuation(rows_of(kind)[case[0]], replace(DECODINGS[case[1]], max_new_tokens=case[2]))


cases = st.tuples(st.integers(0, 15), st.integers(0, len(DECODINGS) - 1), st.sampled_from(LENGTHS))


@pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    asked=st.lists(cases, min_size=1, max_size=12),
    arrivals=st.lists(st.integers(0, 4), max_size=40),
    rows=st.integers(1, 6),
    cache_bytes=st.sampled_from([0, 20_000, 100_000_000]),
    pace=st.sampled_from([None, Pace(3, rounds_slots=False), Pace(8, rounds_slots=True)]),
    vision_pace=st.sampled_from([None, VisionPace(8, looks_ahead=True), VisionPace(16, looks_ahead=True)]),
)
def test_an_answer_is_that_of_the_full_prompt_alone(
    kind: str,
    asked: list[Case],
    arrivals: list[int],
    rows: int,
    cache_bytes: int,
    pace: Pace | None,
    vision_pace: VisionPace | None,
) -> None:
    family, model = opened(kind)
    engine = Engine(model, family, cache_bytes=cache_bytes, pace=pace, vision_pace=vision_pace)
    engine._pass_tokens = 2
    works = [work_of(kind, case) for case in asked]
    coming, counts = list(works), iter(arrivals)

    def take(count: int, wait: bool) -> Sequence[Work] | None:
        size = min(count, next(counts, 4))
        if wait:
            if not coming:
                return None
            size = max(size, 1)
        taken = coming[:size]
        del coming[:size]
        return taken

    ended = [pair for pair in Flow(engine, take, rows).run() if pair is not None]
    answers = {id(work): done for work, done in ended}
    assert len(answers) == len(works)
    for work, case in zip(works, asked, strict=True):
        done = answers[id(work)]
        assert isinstance(done, Done)
        assert done.outcome.generation == expected(kind, case)


@contextmanager
def short_of_memory(model: Any, tokens: int) -> Iterator[list[int]]:
    """A pass over more tokens than these, keys of earlier ones included, fails as a device does."""
    failed: list[int] = []

    def check(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        rows, width = inputs["input_ids"].shape
        held = rows * (width + inputs["past_key_values"].get_seq_length())
        if held > tokens:
            failed.append(held)
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failed
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics3"])
@pytest.mark.parametrize("tokens", [60, 150, 300, 700])
@pytest.mark.parametrize("pace", [None, Pace(8, rounds_slots=True)], ids=["", "ahead"])
def test_what_does_not_fit_is_written_with_fewer_beside_it(kind: str, tokens: int, pace: Pace | None) -> None:
    family, model = opened(kind)
    asked = [(index % 16, index % 6, 13) for index in range(14)]
    works = [work_of(kind, case) for case in asked]
    plain = [expected(kind, case) for case in asked]
    with short_of_memory(model, tokens) as failed:
        engine = Engine(model, family, pace=pace)
        engine._step = None  # its passes are not those of the model, which are watched here
        done = run_all(engine, works, rows=8)
    assert failed
    for work, one, answer in zip(works, done, plain, strict=True):
        if isinstance(one, ItemError):
            assert len(work.encoded.ids) + 13 > tokens
        else:
            assert one.outcome.generation == answer
    assert tokens == 60 or any(isinstance(one, Done) for one in done)


@pytest.mark.parametrize("kind", ["idefics", "idefics2"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_one_that_fails_in_the_middle_of_its_answer_harms_no_other(kind: str, tokens: int) -> None:
    family, model = opened(kind)
    decoding = replace(GREEDY, max_new_tokens=8)
    cases = [(index, 0, 8) for index in range(6)]
    heard: list[list[str]] = [[] for _ in cases]
    # No answer is too short for it: tokens are counted, not characters.
    works: list[Continuation] = []
    for index, pieces in enumerate(heard):
        bad = Listener(is_cancelled=_failing_after(tokens))
        listener = bad if index == 2 else Listener(pieces.append)
        works.append(Continuation(rows_of(kind)[index], decoding, listener))
    done = run_all(Engine(model, family), works, rows=4)
    assert isinstance(done[2], InternalError)
    assert "KeyError" in str(done[2])
    for index, (case, one) in enumerate(zip(cases, done, strict=True)):
        if index != 2:
            assert isinstance(one, Done)
            assert one.outcome.generation == expected(kind, case)
            assert "".join(heard[index]) == expected(kind, case).text, "said once"


def _failing_after(tokens: int) -> Callable[[], bool]:
    asked: list[int] = []

    def ask() -> bool:
        asked.append(1)
        if len(asked) > tokens:
            raise KeyError("gone")
        return False

    return ask


def test_short_answers_do_not_wait_for_a_long_one() -> None:
    family, model = opened("idefics3")
    rows = rows_of("idefics3")
    own_stops, family.stop_ids = family.stop_ids, ()
    try:
        works = [Continuation(rows[0], replace(GREEDY, max_new_tokens=60))]
        works += [Continuation(rows[1 + index % 8], replace(GREEDY, max_new_tokens=3)) for index in range(11)]
        given_works = iter([works])
        pairs = Flow(Engine(model, family), lambda *_: next(given_works, None), 4).run()
        ended = [pair[0] for pair in pairs if pair is not None]
    finally:
        family.stop_ids = own_stops
    assert ended[-1] is works[0]


@pytest.mark.parametrize("rows", [4, 8])
def test_short_requests_are_not_overtaken_as_long_as_others_come(rows: int) -> None:
    """The most expensive ones run first."""
    family, model = opened("idefics")
    texts = ("z", *(f"{letter} is {letter}" for letter in "abcdefghijklmno"))
    prompts = [family.encode((Message("user", (TextPart(text),)),), []) for text in texts]
    short = [Continuation(prompts[0], replace(GREEDY, max_new_tokens=count)) for count in (1, 2)]
    long = [
        Continuation(prompts[1 + index % 15], replace(GREEDY, max_new_tokens=8 + index * 7 % 5)) for index in range(100)
    ]
    coming = [*long[:8], *short, *long[8:]]

    def take(count: int, wait: bool) -> list[Work] | None:
        taken: list[Work] = list(coming[: min(count, 2 * rows)])
        del coming[: len(taken)]
        return taken or None

    ended = [pair[0] for pair in Flow(Engine(model, family), take, rows).run() if pair is not None]
    assert len(ended) == 102
    assert max(ended.index(one) for one in short) < 8 + 5 * rows


@pytest.mark.parametrize("kind", ["idefics", "idefics2"])
def test_rows_that_move_together_keep_their_tokens(kind: str) -> None:
    """A late row in the slot of an early one, when half of the slots are let go of: each takes its own token."""
    family, model = opened(kind)
    own_stops, family.stop_ids = family.stop_ids, ()
    try:
        decodings = [replace(GREEDY, max_new_tokens=count) for count in (2, 13, 4, 4, 13, 13)]
        works = [Continuation(row, decoding) for row, decoding in zip(rows_of(kind), decodings, strict=False)]
        done = run_all(Engine(model, family), works, rows=4)
        plain = [plain_answer(kind, work.encoded, work.decoding) for work in works]
    finally:
        family.stop_ids = own_stops
    assert [one.outcome.generation for one in done if isinstance(one, Done)] == plain


def test_rows_become_more_while_they_fit_and_fewer_where_they_do_not() -> None:
    family, model = opened("idefics3")
    works = [work_of("idefics3", (index % 16, 0, 13)) for index in range(60)]
    held: list[int] = []

    def widths(tokens: int) -> int:
        """The most rows at a time where no more tokens than these fit."""
        engine = Engine(model, family)
        engine._step = None
        given_works = iter([works[first : first + 4] for first in range(0, len(works), 4)])
        with short_of_memory(model, tokens):
            flow = Flow(engine, lambda *_: next(given_works, None), 2, grows=True)
            for _ in flow.run():
                held.append(flow._rows)
        return max(held)

    assert widths(100_000) == 32
    held.clear()
    assert widths(400) < 16
    assert min(held) < max(held), "they grew and gave way"
