"""Constraints: only what they allow is said, and they hear of each token once, in order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from idefics_cli.engine.constraint import hide_others
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation, Generation
from idefics_cli.engine.oom_retry import Done
from idefics_cli.values import Decoding
from tests.engine.oracle import opened, plain_answer, run_all
from tests.models.tiny import document, picture

KINDS = ("idefics", "idefics3")
GREEDY = Decoding(max_new_tokens=8)
IMAGE = picture(1)
PROMPT = document(IMAGE, "Describe this image.")


class Script:
    """Allows one token after the other, then anything."""

    def __init__(self, ids: tuple[int, ...], size: int) -> None:
        self.ids = ids
        self.size = size
        self.accepted: list[int] = []

    def allow(self) -> Tensor | None:
        place = len(self.accepted)
        return to_bits({self.ids[place]}, self.size) if place < len(self.ids) else None

    def draft(self) -> tuple[int, ...]:
        return ()

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def copy(self) -> Script:
        copied = Script(self.ids, self.size)
        copied.accepted = [*self.accepted]
        return copied

    @property
    def is_over(self) -> bool:
        return False


def to_bits(ids: set[int], size: int) -> Tensor:
    words = [sum(1 << bit for bit in range(32) if 32 * word + bit in ids) for word in range((size + 31) // 32)]
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)


def test_bits_are_tokens() -> None:
    scores = torch.zeros(3, 70)
    hidden = hide_others(scores, [None, to_bits({0, 31, 32, 69}, 70), to_bits({1}, 32)])
    allowed = [row.isfinite().nonzero()[:, 0].tolist() for row in hidden]
    assert allowed == [list(range(70)), [0, 31, 32, 69], [1]]
    assert hide_others(scores, [None, None, None]) is scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_keeps_to_its_constraint_and_no_other_does(kind: str, temperature: float) -> None:
    family, model = opened(kind)
    row = family.encode(PROMPT, [IMAGE])
    words = tuple(family.tokenizer("yes no blue", add_special_tokens=False)["input_ids"])
    size = model.get_output_embeddings().weight.shape[0]
    decoding = replace(GREEDY, temperature=temperature)
    made: list[Script] = []

    def script() -> Script:
        made.append(Script((*words, family.stop_ids[0]), size))
        return made[-1]

    works = [
        Continuation(row, decoding),
        Continuation(row, decoding, constrain=script),
        Continuation(row, decoding),
    ]
    done = run_all(Engine(model, family), works, rows=8)
    answers = [one.outcome.generation for one in done if isinstance(one, Done)]
    free = plain_answer(kind, row, decoding)
    assert [answers[0], answers[2]] == [free, free]
    assert answers[1] is not None
    assert answers[1].ids == words
    assert answers[1].finish_reason == "stop"
    assert answers[1].new_tokens == len(words) + 1
    assert made[-1].accepted[: len(words)] == list(words)


@pytest.mark.parametrize("kind", KINDS)
def test_how_likely_each_token_was_is_told(kind: str) -> None:
    family, model = opened(kind)
    row = family.encode(PROMPT, [IMAGE])
    (outcome,) = Engine(model, family).run([Continuation(row, GREEDY)])
    made = outcome.generation
    assert isinstance(made, Generation)
    assert len(made.logprobs) == made.new_tokens
    with torch.inference_mode():
        whole = replace(row, ids=(*row.ids, *made.ids))
        logits = model(**family.collate([whole]), use_cache=False).logits[0].clone()
        logits[:, list(family.banned_ids)] = -torch.inf
        expected = torch.log_softmax(logits.float(), dim=-1)
    for place, (token, given) in enumerate(zip(made.ids, made.logprobs, strict=False)):
        assert math.isclose(given, float(expected[len(row.ids) - 1 + place, token]), abs_tol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_beams", [1, 2, 3])
def test_beams_keep_to_copies_of_the_constraint(kind: str, num_beams: int) -> None:
    """Of all that may be said, beams find what is likeliest; a plain search of them all is the oracle."""
    family, model = opened(kind)
    row = family.encode(PROMPT, [IMAGE])
    texts = ("yes yes", "yes no", "no yes", "no blue")
    allowed = [tuple(family.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    size = model.get_output_embeddings().weight.shape[0]
    decoding = replace(GREEDY, num_beams=num_beams, length_penalty=0.0)
    work = Continuation(row, decoding, constrain=lambda: Ways(allowed, size))
    (done,) = run_all(Engine(model, family), [work], rows=8)
    assert isinstance(done, Done)
    made = done.outcome.generation
    assert made is not None
    assert made.finish_reason == "stop"
    assert made.ids in allowed
    if num_beams < len(allowed) - 1:
        return
    with torch.inference_mode():
        chances = []
        for ids in allowed:
            logits = model(**family.collate([replace(row, ids=(*row.ids, *ids))]), use_cache=False).logits[0]
            own = torch.log_softmax(logits[len(row.ids) - 1 : -1].float(), dim=-1)
            chances.append(float(own.gather(-1, torch.tensor(ids)[:, None]).sum()))
    assert made.ids == allowed[chances.index(max(chances))]


class Ways:
    """Allows some texts, and is over at the end of each."""

    def __init__(self, texts: list[tuple[int, ...]], size: int) -> None:
        self.texts = texts
        self.size = size
        self.said: tuple[int, ...] = ()

    def _list_rests(self) -> list[tuple[int, ...]]:
        count = len(self.said)
        return [text[count:] for text in self.texts if text[:count] == self.said]

    def allow(self) -> Tensor | None:
        return to_bits({rest[0] for rest in self._list_rests() if rest}, self.size)

    def draft(self) -> tuple[int, ...]:
        return ()

    def accept(self, token: int) -> None:
        self.said = (*self.said, token)

    def copy(self) -> Ways:
        copied = Ways(self.texts, self.size)
        copied.said = self.said
        return copied

    @property
    def is_over(self) -> bool:
        return not any(self._list_rests())


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_tokens_are_told_beside_the_chosen_one(kind: str) -> None:
    family, model = opened(kind)
    row = family.encode(PROMPT, [IMAGE])
    (outcome,) = Engine(model, family).run([Continuation(row, GREEDY, likeliest=3)])
    (plain,) = Engine(model, family).run([Continuation(row, GREEDY)])
    made = outcome.generation
    assert isinstance(made, Generation)
    assert made == plain.generation
    assert len(made.likeliest) == made.new_tokens
    for token, logprob, (first, *others) in zip(made.ids, made.logprobs, made.likeliest, strict=False):
        assert first[0] == token
        assert math.isclose(first[1], logprob, abs_tol=1e-5)
        assert len(others) == 2
        assert first[1] >= others[0][1] >= others[1][1]
