"""Ranking labels by likelihood: the log-probability of each label's tokens and its terminator, summed.

One full row a label. A row's score depends on nothing but the row, and equal labels get equal scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

from ..models.families.family import Encoded, Family
from ..values import Choice, Score


def find_shared_length(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with in common."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


@torch.inference_mode()
def score_rows(
    model: Any, family: Family, rows: Sequence[Encoded], start: int, *, batch_size: int
) -> list[float]:
    """The summed log-probability, in nats, of each row's tokens from `start` on. The rows are of one request."""
    assert all(len(row.ids) > start for row in rows), "a label without a token cannot be ranked"
    limit = min(batch_size, family.batch_limit or batch_size)
    totals: dict[tuple[int, ...], float] = {}
    distinct = list({row.ids: row for row in rows}.values())
    by_length = sorted(distinct, key=lambda row: len(row.ids), reverse=True)
    for first in range(0, len(by_length), limit):
        batch = by_length[first : first + limit]
        for row, total in zip(batch, _score_batch(model, family, batch, start), strict=True):
            totals[row.ids] = total
    return [totals[row.ids] for row in rows]


def rank(choices: Sequence[Choice], logprobs: Sequence[float]) -> tuple[Score, ...]:
    """Scores best first, ties in the order of the choices; probabilities are over these choices."""
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    total = math.fsum(weights)
    scores = [
        Score(choice.label, logprob, weight / total)
        for choice, logprob, weight in zip(choices, logprobs, weights, strict=True)
    ]
    return tuple(sorted(scores, key=lambda score: -score.logprob))


def _score_batch(model: Any, family: Family, rows: Sequence[Encoded], start: int) -> list[float]:
    inputs = {name: tensor.to(model.device) for name, tensor in family.collate(rows).items()}
    if family.batch_limit is None:
        # Left padding shifts the positions; the forward of some architectures does not see to that itself.
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    longest = max(len(row.ids) for row in rows) - start
    # The logits that tell of a token stand one place before it.
    logits = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
    targets = inputs["input_ids"][:, -longest:]
    logprobs = torch.log_softmax(logits.float(), dim=-1).gather(-1, targets[..., None])[..., 0]
    return [
        float(logprobs[index, longest - (len(row.ids) - start) :].double().sum())
        for index, row in enumerate(rows)
    ]
