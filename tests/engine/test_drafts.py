"""What a format leaves no choice about is run several tokens a pass, and changes no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from idefics_cli.engine.constraint import MakeConstraint, TokenConstraint
from idefics_cli.engine.decoder import Pace
from idefics_cli.engine.decoder_step import DecoderStep
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation, Generation
from idefics_cli.engine.grammar import Grammars
from idefics_cli.engine.oom_retry import Done
from idefics_cli.prompts.answer_format import check_schema, parse_regex
from idefics_cli.values import AnswerFormat, Decoding
from tests.engine.oracle import opened, run_all
from tests.engine.test_flow import short_of_memory
from tests.models.tiny import document, picture

KINDS = ("idefics", "idefics2", "idefics3", "smolvlm")
IMAGES = [picture(1), picture(2)]
PROMPTS = [
    document(IMAGES[0], "Describe this image."),
    document(IMAGES[1], "What? And how many of them are there, if any? Answer:"),
    document("Say it."),
]
LONG = check_schema(
    {
        "type": "object",
        "properties": {
            "the_colour_of_the_shape": {"enum": ["red", "blue"]},
            "how_many_there_are": {"type": "integer", "minimum": 0, "maximum": 9},
            "ground": {"type": "boolean"},
        },
        "required": ["the_colour_of_the_shape", "how_many_there_are", "ground"],
        "additionalProperties": False,
    }
)
FIXED = parse_regex("(yes|no), this is what was said in all of the answers( again)?")


class Slow:
    """A constraint that never says what must come next."""

    def __init__(self, inner: TokenConstraint) -> None:
        self._inner = inner

    def allow(self) -> Tensor | None:
        return self._inner.allow()

    def draft(self) -> tuple[int, ...]:
        return ()

    def accept(self, token: int) -> None:
        self._inner.accept(token)

    def copy(self) -> Slow:
        return Slow(self._inner.copy())

    @property
    def is_over(self) -> bool:
        return self._inner.is_over


class Canonical(Slow):
    """One that allows only the drafted token, as a model that was taught the format would choose it."""

    def __init__(self, inner: TokenConstraint, size: int, *, drafts: bool) -> None:
        super().__init__(inner)
        self._size = size
        self._drafts = drafts

    def allow(self) -> Tensor | None:
        ahead = self._inner.draft()
        if not ahead:
            return self._inner.allow()
        words = torch.zeros((self._size + 31) // 32, dtype=torch.int64)
        words[ahead[0] // 32] = 1 << ahead[0] % 32
        return words.to(torch.int32)

    def draft(self) -> Any:
        return self._inner.draft() if self._drafts else ()


class Passes:
    """Counts the passes of a model and of its step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
        self.count = 0
        forward = model.forward

        def counted(*args: Any, **options: Any) -> Any:
            self.count += 1
            return forward(*args, **options)

        monkeypatch.setattr(model, "forward", counted)
        step = DecoderStep.run

        def counted_step(*args: Any) -> Any:
            self.count += 1
            return step(*args)

        monkeypatch.setattr(DecoderStep, "run", counted_step)


def answer(kind: str, constrain: list[MakeConstraint | None], decodings: list[Decoding]) -> list[Generation]:
    family, model = opened(kind)
    works = [
        Continuation(family.encode(PROMPTS[place % 3], IMAGES[place % 3 : place % 3 + 1]), one, constrain=own)
        for place, (own, one) in enumerate(zip(constrain, decodings, strict=True))
    ]
    # As on a graphics card, for some.
    pace = Pace(8, rounds_slots=True) if kind in ("idefics2", "smolvlm") else None
    with torch.inference_mode():
        done = run_all(Engine(model, family, pace=pace), works, rows=3 if pace else 4)
    made = [one.outcome.generation for one in done if isinstance(one, Done)]
    assert len(made) == len(works)
    return [one for one in made if one is not None]


def check_same(drafted: list[Generation], slow: list[Generation]) -> None:
    assert [(one.text, one.ids, one.finish_reason) for one in drafted] == [
        (one.text, one.ids, one.finish_reason) for one in slow
    ]
    for one, other in zip(drafted, slow, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_change_no_answer_and_save_passes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In company of free and of drawn rows, with other lengths and images, and where a limit cuts off."""
    family, model = opened(kind)
    size = model.get_output_embeddings().weight.shape[0]
    formats: list[AnswerFormat | None] = [LONG, None, LONG, FIXED, LONG, FIXED, None]
    greedy, drawn = Decoding(max_new_tokens=150), Decoding(max_new_tokens=150, temperature=1.2, seed=5)
    decodings = [greedy, replace(drawn, max_new_tokens=9), drawn, greedy, replace(greedy, max_new_tokens=20)]
    decodings += [replace(greedy, repetition_penalty=1.3), replace(greedy, max_new_tokens=12)]
    grammars = Grammars(family)

    def make(one: AnswerFormat | None, *, drafts: bool) -> MakeConstraint | None:
        made = None if one is None else grammars.constrain(one)
        return None if made is None else lambda: Canonical(made(), size, drafts=drafts)

    passes = Passes(monkeypatch, model)
    slow = answer(kind, [make(one, drafts=False) for one in formats], decodings)
    slow_passes, passes.count = passes.count, 0
    drafted = answer(kind, [make(one, drafts=True) for one in formats], decodings)
    check_same(drafted, slow)
    assert passes.count < 0.75 * slow_passes, (passes.count, slow_passes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_that_a_model_would_write_otherwise_is_not_taken(kind: str) -> None:
    """Weights without training write what must come in other tokens than a tokenizer does."""
    family, _ = opened(kind)
    grammars = Grammars(family)
    formats = [LONG, FIXED, None, LONG]
    made = [None if one is None else grammars.constrain(one) for one in formats]
    decodings = [Decoding(max_new_tokens=60), Decoding(max_new_tokens=60, temperature=1.0, seed=2)] * 2
    slow = [None if one is None else (lambda own=one: Slow(own())) for one in made]
    check_same(answer(kind, [*made], decodings), answer(kind, [*slow], decodings))


@pytest.mark.parametrize("kind", ["idefics", "idefics3"])
def test_drafts_that_do_not_fit_into_memory_change_no_answer(kind: str) -> None:
    family, model = opened(kind)
    size = model.get_output_embeddings().weight.shape[0]
    made = Grammars(family).constrain(LONG)
    constrain: list[MakeConstraint | None] = [lambda: Canonical(made(), size, drafts=True)] * 6
    decodings = [Decoding(max_new_tokens=120)] * 6
    expected = answer(kind, constrain, decodings)
    longest = max(len(family.encode(one, IMAGES[n : n + 1]).ids) for n, one in enumerate(PROMPTS))
    with short_of_memory(model, longest + 180) as failed:
        check_same(answer(kind, constrain, decodings), expected)
    assert failed
