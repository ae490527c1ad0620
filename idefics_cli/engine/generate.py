"""Batched generation: model inputs and one `Decoding` in, texts out.

The generation config is made from the `Decoding` alone, so no default of a checkpoint can change an answer.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ..models.devices import find_input_device
from ..models.families.family import Encoded, Family
from ..values import Decoding, FinishReason
from .constraint import MakeConstraint
from .detokenizer import AnswerText, TextStream
from .listener import Listener
from .processors import ChosenNotes, Finite, HeardRows, KeptBeams, Likeliest, OverBeams, StopStrings


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated text; `new_tokens` counts the token that ended it, which is not in `ids`.

    If not `is_finite`, its logits had NaN or infinity, and it is no answer. `logprobs` are of the new tokens, the one
    that ended it included, before constraint and temperature; beams have none. The same holds for the `likeliest`
    tokens at each place, if they were asked for.
    """

    text: str
    new_tokens: int
    finish_reason: FinishReason
    ids: tuple[int, ...] = ()
    is_finite: bool = True
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    likeliest: tuple[Likeliest, ...] = field(default=(), compare=False)


def is_sampled(decoding: Decoding) -> bool:
    return decoding.temperature > 0


@dataclass(frozen=True, slots=True, eq=False)
class Continuation:
    """A prompt to continue, its listener, and its constraint.

    With `cache_answer`, keys and values are kept for prompts that repeat the answer. Constrained beams are not sampled:
    there may be fewer ways than beams.
    """

    encoded: Encoded
    decoding: Decoding
    listener: Listener | None = None
    cache_answer: bool = False
    constrain: MakeConstraint | None = None
    likeliest: int = 0
    """How many tokens that could have been said are told at each place."""


def batch_key(continuation: Continuation) -> Hashable:
    """What prompts must agree in to be decoded together without changing an answer.

    A sampled row has a generator of its own; a repetition penalty would also count the padding.
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
    """Continue each prompt from its model inputs. A row may have a listener, which gets its text and can end it.

    A constrained prompt is a batch of one row.
    """
    assert constrain is None or len(rows) == 1, "one row"
    width = inputs["input_ids"].shape[1]
    answers = [AnswerText(family, row.ids, decoding.stop) for row in rows]
    endings: list[StoppingCriteria] = []
    if decoding.stop:
        endings.append(StopStrings(answers, width))
    streams = [
        None if listener is None else TextStream(answer, listener, family.stop_ids)
        for answer, listener in zip(answers, listeners or [None] * len(rows), strict=True)
    ]
    if any(streams):
        endings.append(HeardRows(streams, width, can_stream=decoding.num_beams == 1))
    finite = Finite(len(rows), family.stop_ids[0] if family.stop_ids else family.pad_id)
    chosen = ChosenNotes(likeliest)
    options: dict[str, Any] = {"logits_processor": LogitsProcessorList([finite])}
    if decoding.num_beams == 1:
        options["logits_processor"].append(chosen)
    kept = None
    if constrain is not None:
        kept = KeptBeams(width, constrain())
        options["logits_processor"].append(kept)
        endings.append(OverBeams(kept))
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


def _read(ids: list[int], answer: AnswerText, family: Family, kept: KeptBeams | None) -> Generation:
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
