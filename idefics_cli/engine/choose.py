"""The next token of each row from its logits: the likeliest, or drawn by the row's own seed.

Rows differ in how they choose; each chooses as if it were alone.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..values import Decoding
from .constraint import hide_others
from .running_row import RunningRow


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token, its log-probability before constraint and temperature, and whether it was computed with numbers."""

    token: int
    logprob: float
    is_finite: bool


def choose(logits: Tensor, rows: Sequence[RunningRow], banned_ids: Sequence[int]) -> list[ChosenToken]:
    """One token for each row, whose logits are in the same order. Asks the device once."""
    scores = logits.to(torch.float32, copy=True)
    for place, row in enumerate(rows):
        processors = _list_penalties(row.work.decoding)
        if processors:
            ids = torch.tensor([[*row.work.encoded.ids, *row.ids]], device=scores.device)
            scores[place] = _shape(processors, ids, scores[place : place + 1])[0]
    if banned_ids:
        scores[:, list(banned_ids)] = -torch.inf
    # The highest of a row is NaN if any is; logits of -inf are tokens that are banned.
    finite = torch.isfinite(scores.amax(dim=-1))
    allowed = hide_others(
        scores, [None if row.constraint is None else row.constraint.allow() for row in rows]
    )
    tokens = allowed.argmax(dim=-1)
    drawn = [place for place, row in enumerate(rows) if row.generator is not None]
    if drawn:
        # Drawing from what are no numbers would fail the whole batch, and on a GPU the device.
        safe = torch.where(finite[:, None], allowed, torch.zeros_like(allowed[:1]))
        for place in drawn:
            tokens[place] = _draw(safe[place : place + 1], rows[place])
    logprobs = scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(dim=-1)
    told = torch.stack([tokens.double(), logprobs.double(), finite.double()]).tolist()
    return [
        ChosenToken(int(token), logprob, bool(is_finite))
        for token, logprob, is_finite in zip(*told, strict=True)
    ]


def _draw(scores: Tensor, row: RunningRow) -> Tensor:
    decoding = row.work.decoding
    ids = torch.empty((1, 0), dtype=torch.long, device=scores.device)
    shaped = _shape(_list_warpers(decoding), ids, scores)
    return torch.multinomial(shaped.softmax(dim=-1), 1, generator=row.generator)[0, 0]


def _shape(processors: Sequence[Any], ids: Tensor, scores: Tensor) -> Tensor:
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def _list_penalties(decoding: Decoding) -> list[Any]:
    """In the order of `generate`, as all of these."""
    made: list[Any] = []
    if decoding.repetition_penalty != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.no_repeat_ngram_size > 0:
        made.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
    return made


def _list_warpers(decoding: Decoding) -> list[Any]:
    made: list[Any] = []
    if decoding.temperature != 1.0:
        made.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k > 0:
        made.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        made.append(TopPLogitsWarper(decoding.top_p))
    return made
