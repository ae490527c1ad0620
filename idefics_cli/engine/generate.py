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
from .constraint import MakeConstraint, TokenConstraint, hide_others
from .detokenizer import AnswerText, TextStream
from .listener import Listener

_UNLIKELY = -1e4
"""A logit that is as good as none, and a number in every precision."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated text; `new_tokens` counts the token that ended it, which is not among `ids`.

    One that is not `is_finite` was computed with what is no number, and is no answer. `logprobs` are of the new tokens,
    the one that ended it included, as the model gives them without a constraint or a temperature; beams have none.
    """

    text: str
    new_tokens: int
    finish_reason: FinishReason
    ids: tuple[int, ...] = ()
    is_finite: bool = True
    logprobs: tuple[float, ...] = field(default=(), compare=False)


def is_sampled(decoding: Decoding) -> bool:
    return decoding.temperature > 0


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """A prompt to be continued, who listens, and what the answer may say.

    One that has `cache_answer` leaves its keys and values for prompts that repeat its answer. Beams know no constraint.
    """

    encoded: Encoded
    decoding: Decoding
    listener: Listener | None = None
    cache_answer: bool = False
    constrain: MakeConstraint | None = None


def batch_key(continuation: Continuation) -> Hashable:
    """What prompts must agree in to be decoded together without a trace in their answers.

    A sampled row draws from a generator of its own; what punishes repetition would also count the padding.
    """
    decoding = continuation.decoding
    if is_sampled(decoding) or continuation.constrain is not None:
        return decoding, id(continuation)
    if decoding.repetition_penalty != 1.0 or decoding.no_repeat_ngram_size != 0:
        return decoding, len(continuation.encoded.ids)
    return (decoding,)


def generate(
    model: Any,
    family: Family,
    rows: Sequence[Encoded],
    decoding: Decoding,
    inputs: Mapping[str, Any],
    listeners: Sequence[Listener | None] = (),
    constrain: MakeConstraint | None = None,
) -> list[Generation]:
    """Continue each prompt from its model inputs. Each row may have a listener, who hears it or ends it.

    What is constrained is a single row.
    """
    assert constrain is None or (len(rows) == 1 and decoding.num_beams == 1), "one row and no beams"
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
    chosen = _Chosen(width, None if constrain is None else constrain())
    options: dict[str, Any] = {"logits_processor": LogitsProcessorList([finite])}
    if decoding.num_beams == 1:
        options["logits_processor"].append(chosen)
    if endings:
        options["stopping_criteria"] = StoppingCriteriaList(endings)
    device = find_input_device(model)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, enabled=is_sampled(decoding)):
        if is_sampled(decoding):
            torch.manual_seed(decoding.seed)
        sequences = model.generate(**inputs, generation_config=_build_config(family, decoding), **options)
    generations = [
        replace(_read(sequence[width:].tolist(), answer, family), is_finite=is_finite)
        for sequence, answer, is_finite in zip(sequences, answers, finite.read(), strict=True)
    ]
    if decoding.num_beams == 1:
        generations = [
            replace(one, logprobs=own[: one.new_tokens])
            for one, own in zip(generations, chosen.read(sequences), strict=True)
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


def _read(ids: list[int], answer: AnswerText, family: Family) -> Generation:
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
    """Notes how likely each chosen token was, and keeps a single row to its constraint."""

    def __init__(self, width: int, constraint: TokenConstraint | None) -> None:
        self._width = width
        self._constraint = constraint
        self._scores: Any = None
        self._logprobs: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._note(input_ids)
        self._scores = scores
        if self._constraint is None:
            return scores
        if input_ids.shape[1] > self._width:
            self._constraint.accept(int(input_ids[0, -1]))
        return hide_others(scores, [self._constraint.allow()])

    def read(self, sequences: Any) -> list[tuple[float, ...]]:
        """The log-probabilities of each row's new tokens, those after its end included."""
        if sequences.shape[1] > self._width + len(self._logprobs):
            self._note(sequences)
        if not self._logprobs:
            return [()] * len(sequences)
        return [tuple(row) for row in torch.stack(self._logprobs, dim=1).tolist()]

    def _note(self, input_ids: Any) -> None:
        if self._scores is not None:
            given = self._scores.gather(-1, input_ids[:, -1:])[:, 0]
            self._logprobs.append(given - self._scores.logsumexp(-1))


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
