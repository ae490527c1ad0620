"""The promise of a kept answer: the next turn of a conversation is that of the whole conversation, for less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from idefics_cli.engine.engine import Engine, Outcome
from idefics_cli.engine.generate import Continuation
from idefics_cli.engine.oom_retry import Done
from idefics_cli.models.families.family import Encoded
from idefics_cli.values import Decoding, Image, ImagePart, Prompt
from tests.engine.oracle import opened, plain_answer, run_all
from tests.models.tiny import KINDS, assistant, document, picture, user

SHORT = Decoding(max_new_tokens=6)
IMAGES = {image.source: image for image in (picture(seed, (40, 30 + seed)) for seed in range(4))}
FIRST, SECOND, THIRD, FOURTH = IMAGES.values()
ANY_KIND = pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])


def encode(kind: str, prompt: Prompt) -> Encoded:
    family, _ = opened(kind)
    sources = [part.source for one in prompt for part in one.parts if isinstance(part, ImagePart)]
    return family.encode(prompt, [IMAGES[source] for source in sources])


def ask(engine: Engine, row: Encoded, decoding: Decoding = SHORT) -> Outcome:
    (done,) = run_all(engine, [Continuation(row, decoding, cache_answer=True)], rows=8)
    assert isinstance(done, Done)
    return done.outcome


def converse(
    engine: Engine, kind: str, turns: Sequence[Sequence[str | Image]], decoding: Decoding = SHORT
) -> list[tuple[Encoded, Outcome]]:
    """Ask one after the other, each time with all that was said before."""
    prompt: Prompt = ()
    asked = []
    for turn in turns:
        row = encode(kind, (*prompt, user(*turn)))
        outcome = ask(engine, row, decoding)
        assert outcome.generation is not None
        assert outcome.generation == plain_answer(kind, row, decoding)
        asked.append((row, outcome))
        prompt = (*prompt, user(*turn), assistant(outcome.generation.text.strip()))
    return asked


def count_known(before: tuple[Encoded, Outcome], after: Encoded) -> int:
    """The tokens of a prompt that were run for the turn before it: those its prompt and its answer begin with."""
    encoded, outcome = before
    assert outcome.generation is not None
    ran = (*encoded.ids, *outcome.generation.ids)
    if outcome.generation.finish_reason == "length":
        ran = ran[:-1]
    known = 0
    while known < min(len(ran), len(after.ids)) and ran[known] == after.ids[known]:
        known += 1
    return known


@ANY_KIND
@pytest.mark.parametrize(
    "decoding", [SHORT, replace(SHORT, temperature=1.2, seed=3), replace(SHORT, stop=("e",))],
    ids=["greedy", "sampled", "stops"],
)  # fmt: skip
def test_a_turn_goes_on_from_the_answer_before_it(kind: str, decoding: Decoding) -> None:
    family, model = opened(kind)
    turns: list[list[str | Image]] = [
        [FIRST, "What is this?"],
        ["And who?"],
        [SECOND, THIRD, "Is it red?"],
        ["Why?"],
        [FOURTH],
    ]
    asked = converse(Engine(model, family), kind, turns, decoding)
    for before, (row, outcome) in pairwise(asked):
        assert outcome.shared_tokens == count_known(before, row)
        assert outcome.shared_tokens >= len(before[0].ids)
        # Where an answer reads back as the tokens it was made of, nothing of it is run again.
        answer = before[1].generation
        assert answer is not None
        if row.ids[len(before[0].ids) :][: len(answer.ids)] == answer.ids:
            assert outcome.shared_tokens >= len(before[0].ids) + len(answer.ids) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_tenth_turn_runs_only_its_own_tokens(kind: str) -> None:
    family, model = opened(kind)
    engine = Engine(model, family)
    converse(engine, kind, [[FIRST, "Who?"]])
    run: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        run.append(inputs["input_ids"].shape[1])

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    counts = []
    prompt: Prompt = ()
    try:
        for turn in range(10):
            words = (FIRST, "Who?") if turn == 0 else ("And?",)
            row = encode(kind, (*prompt, user(*words)))
            run.clear()
            outcome = ask(engine, row)
            counts.append((run[0], len(row.ids) - outcome.shared_tokens))
            assert set(run[1:]) <= {1}
            assert outcome.generation is not None
            # What a small random model says does not always read back as it was made; these words do.
            prompt = (*prompt, user(*words), assistant("yes"))
    finally:
        hook.remove()
    assert all(ran == own for ran, own in counts)
    assert counts[9] == counts[2]


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics3"])
def test_a_turn_that_is_taken_back_or_changed_leaves_no_trace(kind: str) -> None:
    family, model = opened(kind)
    engine = Engine(model, family)
    asked = converse(engine, kind, [[FIRST, "What is this?"], ["And who?"], ["Is it red?"]])
    first = asked[0][1].generation
    assert first is not None
    again = (user(FIRST, "What is this?"), assistant(first.text.strip()), user(SECOND, "And the circle?"))
    row = encode(kind, again)
    outcome = ask(engine, row)
    assert outcome.generation == plain_answer(kind, row, SHORT)
    assert outcome.shared_tokens >= len(asked[0][0].ids)
    other = encode(kind, (user(SECOND, "What is this?"), *again[1:]))
    assert ask(engine, other).generation == plain_answer(kind, other, SHORT)


def test_a_document_is_gone_on_with_too() -> None:
    family, model = opened("idefics")
    engine = Engine(model, family)
    first = encode("idefics", document("User:", FIRST, "Who?\nAssistant:"))
    said = ask(engine, first).generation
    assert said is not None
    row = encode("idefics", document("User:", FIRST, f"Who?\nAssistant: {said.text.strip()}\nUser: And?\nAssistant:"))
    outcome = ask(engine, row)
    assert outcome.generation == plain_answer("idefics", row, SHORT)
    assert outcome.shared_tokens >= len(first.ids)


def test_answers_of_a_batch_are_kept_each() -> None:
    """Rows of different lengths, padded between what they share and what is their own."""
    kind = "idefics2"
    family, model = opened(kind)
    engine = Engine(model, family)
    engine._pass_tokens = 2
    prompts: list[Prompt] = [(user(FIRST, text),) for text in ("Who?", "What colour is the circle?", "Describe")]
    rows = [encode(kind, prompt) for prompt in prompts]
    done = run_all(engine, [Continuation(row, SHORT, cache_answer=True) for row in rows], rows=8)
    for prompt, row, one in zip(prompts, rows, done, strict=True):
        assert isinstance(one, Done)
        assert one.outcome.generation is not None
        following = encode(kind, (*prompt, assistant(one.outcome.generation.text.strip()), user("And?")))
        outcome = ask(engine, following)
        assert outcome.shared_tokens == count_known((row, one.outcome), following)
        assert outcome.generation == plain_answer(kind, following, SHORT)


def test_a_longer_conversation_takes_the_place_of_the_shorter() -> None:
    family, model = opened("idefics3")
    engine = Engine(model, family)
    asked = converse(engine, "idefics3", [[FIRST, "Who?"], *[["And?"]] * 4])
    kept: list[Any] = [engine._store.find(key) for key in engine._store.list_keys() if key[0] == "prefix"]
    assert sum(prefix.prompt_units > 0 for prefix in kept) == 1
    assert max(prefix.length for prefix in kept) > len(asked[-1][0].ids)
    small = Engine(model, family, cache_bytes=0)
    for before, after in zip(asked, converse(small, "idefics3", [[FIRST, "Who?"], *[["And?"]] * 4]), strict=True):
        assert before[1].generation == after[1].generation
    assert small._store.used_bytes == 0
