"""Batched generation: model inputs and one `Decoding` in, texts out.

The generation config is made afresh from the `Decoding`, so nothing a checkpoint prefers can change an answer.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ..models.devices import find_input_device
from ..models.families.family import Encoded, Family
from ..values import Decoding, FinishReason
from .constraint import MakeConstraint, TokenConstraint, hide_others, is_allowed
from .detokenizer import AnswerText, TextStream
from .listener import Listener

_UNLIKELY = -1e4
"""A logit that is as good as none, and a number in every precision."""


Likeliest = tuple[tuple[int, float], ...]
"""Tokens and their log-probabilities, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated text; `new_tokens` counts the token that ended it, which is not among `ids`.

    One that is not `is_finite` was computed with what is no number, and is no answer. `logprobs` are of the new tokens,
    the one that ended it included, as the model gives them without a constraint or a temperature; beams have none. So
    are the `likeliest` tokens at each place, where they are asked for.
    """

    text: str
    new_tokens: int
    finish_reason: FinishReason
    ids: tuple[int, ...] = ()
    is_finite: bool = True
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    likeliest: tuple[Likeliest, ...] = field(default=(), compare=False)


def list_likeliest(scores: Any, count: int) -> Likeliest:
    """The likeliest tokens of one row of scores."""
    values, ids = (scores - scores.logsumexp(-1)).topk(min(count, len(scores)))
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))


def is_sampled(decoding: Decoding) -> bool:
    return decoding.temperature > 0


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """A prompt to be continued, who listens, and what the answer may say.

    One that has `cache_answer` leaves its keys and values for prompts that repeat its answer. Constrained beams are not
    drawn: where there are fewer ways than beams, there is nothing to draw from.
    """

    encoded: Encoded
    decoding: Decoding
    listener: Listener | None = None
    cache_answer: bool = False
    constrain: MakeConstraint | None = None
    likeliest: int = 0
    """How many tokens that could have been said are told at each place."""


def batch_key(continuation: Continuation) -> Hashable:
    """What prompts must agree in to be decoded together without a trace in their answers.

    A sampled row draws from a generator of its own; what punishes repetition would also count the padding.
    """
    decoding = continuation.decoding
    if is_sampled(decoding) or continuation.constrain is not None:
        return decoding, id(continuation)
    if decoding.repetition_penalty != 1.0 or decoding.no_repeat_ngram_size != 0:
        return decoding, continuation.likeliest, len(continuation.encoded.ids)
    return decoding, continuation.likeliest


def generate(
    model: Any,
    family: Family,
    rows: Sequence[Encoded],
    decoding: Decoding,
    inputs: Mapping[str, Any],
    listeners: Sequence[Listener | None] = (),
    constrain: MakeConstraint | None = None,
    likeliest: int = 0,
) -> list[Generation]:
    """Continue each prompt from its model inputs. Each row may have a listener, who hears it or ends it.

    What is constrained is a single row.
    """
    assert constrain is None or len(rows) == 1, "one row"
    width = inputs["input_ids"].shape[1]
    answers = [AnswerText(family, row.ids, decoding.stop) for row in rows]
    endings: list[StoppingCriteria] = []
    if decoding.stop:
        endings.append(_StopStrings(answers, width))
    streams = [
        None if listener is None else TextStream(answer, listener, family.stop_ids)
        for answer, listener in zip(answers, listeners or [None] * len(rows), strict=True)
    ]
    if any(streams):
        endings.append(_Listeners(streams, width, can_stream=decoding.num_beams == 1))
    finite = _Finite(len(rows), family.stop_ids[0] if family.stop_ids else family.pad_id)
    chosen = _Chosen(likeliest)
    options: dict[str, Any] = {"logits_processor": LogitsProcessorList([finite])}
    if decoding.num_beams == 1:
        options["logits_processor"].append(chosen)
    kept = None
    if constrain is not None:
        kept = _Kept(width, constrain())
        options["logits_processor"].append(kept)
        endings.append(_Over(kept))
    if endings:
        options["stopping_criteria"] = StoppingCriteriaList(endings)
    device = find_input_device(model)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=is_sampled(decoding)):
        if is_sampled(decoding):
            torch.manual_seed(decoding.seed)
        sequences = model.generate(**inputs, generation_config=_build_config(family, decoding), **options)
    generations = [
        replace(_read(sequence[width:].tolist(), answer, family, kept), is_finite=is_finite)
        for sequence, answer, is_finite in zip(sequences, answers, finite.read(), strict=True)
    ]
    if decoding.num_beams == 1:
        generations = [
            replace(one, logprobs=own[: one.new_tokens], likeliest=others[: one.new_tokens])
            for one, (own, others) in zip(generations, chosen.read(sequences), strict=True)
        ]
    for stream, generation in zip(streams, generations, strict=True):
        if stream is not None:
            stream.finish(generation.text)
    return generations


def _build_config(family: Family, decoding: Decoding) -> GenerationConfig:
    options: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "num_beams": decoding.num_beams,
        "do_sample": is_sampled(decoding),
        "repetition_penalty": decoding.repetition_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "eos_token_id": list(family.stop_ids) or None,
        "pad_token_id": family.pad_id,
        "bad_words_ids": [[index] for index in family.banned_ids] or None,
        "use_cache": True,
    }
    if decoding.num_beams > 1:
        options["length_penalty"] = decoding.length_penalty
    if is_sampled(decoding):
        options |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
    return GenerationConfig(**options)


def _read(ids: list[int], answer: AnswerText, family: Family, kept: _Kept | None) -> Generation:
    if kept is not None and (over := kept.find_end(ids)) is not None:
        return Generation(answer.read(ids[:over]), over, "stop", tuple(ids[:over]))
    end = next((place for place, index in enumerate(ids) if index in family.stop_ids), len(ids))
    words = ids[:end]
    is_stopped = answer.is_stopped(words)
    while is_stopped and words and words[-1] == family.pad_id and answer.is_stopped(words[:-1]):
        words = words[:-1]  # Padding to the length of the longest row.
    is_ended = end < len(ids) and not is_stopped
    reason: FinishReason = "stop" if is_ended or is_stopped else "length"
    return Generation(answer.read(words), len(words) + is_ended, reason, tuple(words))


class _Finite(LogitsProcessor):
    """Ends each row whose logits are no numbers and says so afterwards, so that no token waits for the device.

    Drawing from such logits would fail the whole batch, and on a GPU the device.
    """

    def __init__(self, rows: int, end_id: int) -> None:
        self._rows = rows
        self._end_id = end_id
        self._broken: Any = None
        self._ending: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self._ending is None:
            self._broken = torch.zeros(self._rows, dtype=torch.bool, device=scores.device)
            self._ending = torch.full_like(scores[0], _UNLIKELY)
            self._ending[self._end_id] = 0
        # The highest of a row is NaN if any is; logits of -inf are tokens that are banned.
        broken = ~torch.isfinite(scores.amax(dim=-1))
        self._broken |= broken.view(self._rows, -1).any(dim=-1)
        return torch.where(broken[:, None], self._ending, scores)

    def read(self) -> list[bool]:
        """Whether each row was computed with numbers."""
        if self._broken is None:
            return [True] * self._rows
        return [not broken for broken in self._broken.tolist()]


class _Chosen(LogitsProcessor):
    """Notes how likely each chosen token was, and as many of the likeliest ones as are wanted."""

    def __init__(self, likeliest: int) -> None:
        self._wanted = likeliest
        self._scores: Any = None
        self._logprobs: list[Any] = []
        self._likeliest: list[list[Likeliest]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._note(input_ids)
        self._scores = scores
        return scores

    def read(self, sequences: Any) -> list[tuple[tuple[float, ...], tuple[Likeliest, ...]]]:
        """What is told of each row's new tokens, those after its end included."""
        self._note(sequences)
        if not self._logprobs:
            return [((), ())] * len(sequences)
        told = torch.stack(self._logprobs, dim=1).tolist()
        others = zip(*self._likeliest, strict=True) if self._wanted else [()] * len(sequences)
        return [(tuple(own), tuple(some)) for own, some in zip(told, others, strict=True)]

    def _note(self, input_ids: Any) -> None:
        if self._scores is None:
            return
        given = self._scores.gather(-1, input_ids[:, -1:])[:, 0]
        self._logprobs.append(given - self._scores.logsumexp(-1))
        if self._wanted:
            self._likeliest.append([list_likeliest(row, self._wanted) for row in self._scores])
        self._scores = None


class _Kept(LogitsProcessor):
    """Keeps each beam of a single row to its own copy of the row's constraint."""

    def __init__(self, width: int, constraint: TokenConstraint) -> None:
        self._width = width
        self._states: dict[tuple[int, ...], TokenConstraint | None] = {(): constraint}
        self._over: set[tuple[int, ...]] = set()

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        states = self.follow(input_ids)
        return hide_others(scores, [None if state is None else state.allow() for state in states])

    def follow(self, input_ids: Any) -> list[TokenConstraint | None]:
        """The state of each beam; None for one that says what it may not: no chance is left to it."""
        said = [tuple(ids) for ids in input_ids[:, self._width :].tolist()]
        self._states = {ids: self._states[ids] if ids in self._states else self._go_on(ids) for ids in said}
        return [self._states[ids] for ids in said]

    def end(self, input_ids: Any) -> list[bool]:
        """Which beams nothing but an end may follow."""
        ended = [state is not None and state.is_over for state in self.follow(input_ids)]
        said = input_ids[:, self._width :].tolist()
        self._over |= {tuple(ids) for ids, is_over in zip(said, ended, strict=True) if is_over}
        return ended

    def find_end(self, ids: Sequence[int]) -> int | None:
        """How many of the ids were said before nothing more could be; None where something could."""
        return next((count for count in range(len(ids) + 1) if tuple(ids[:count]) in self._over), None)

    def _go_on(self, ids: tuple[int, ...]) -> TokenConstraint | None:
        before = self._states.get(ids[:-1])
        if before is None or not is_allowed(before.allow(), ids[-1]):
            return None
        state = before.copy()
        state.accept(ids[-1])
        return state


class _Over(StoppingCriteria):
    """Ends what nothing but an end may follow."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        return torch.tensor(self._kept.end(input_ids), device=input_ids.device, dtype=torch.bool)


class _StopStrings(StoppingCriteria):
    """Ends each row, or each of its beams, at a stop string of its own text."""

    def __init__(self, answers: Sequence[AnswerText], width: int) -> None:
        self._answers = answers
        self._width = width

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        rows = input_ids[:, self._width :].tolist()
        # A beam search asks about more candidates than it keeps beams.
        each = len(rows) // len(self._answers)
        stopped = [self._answers[index // each].is_stopped(ids) for index, ids in enumerate(rows)]
        return torch.tensor(stopped, device=input_ids.device, dtype=torch.bool)


class _Listeners(StoppingCriteria):
    """Lets listeners hear their rows, which beams have none of until they are done; ends those whose listener went."""

    def __init__(self, streams: Sequence[TextStream | None], width: int, *, can_stream: bool) -> None:
        self._streams = streams
        self._width = width
        self._are_heard = can_stream and any(stream is not None and stream.streams for stream in streams)

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        if self._are_heard:
            for stream, ids in zip(self._streams, input_ids[:, self._width :].tolist(), strict=True):
                if stream is not None and stream.streams:
                    stream.take(ids)
        each = len(input_ids) // len(self._streams)
        are_gone = [
            stream is not None and stream.is_cancelled for stream in self._streams for _ in range(each)
        ]
        return torch.tensor(are_gone, device=input_ids.device, dtype=torch.bool)
