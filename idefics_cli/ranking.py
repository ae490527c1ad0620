"""From log-likelihoods to a ranking of labels and the confidence in an answer. Knows no model, so that what others
computed is treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .values import Choice, Confidence, Normalization, Score


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


def temper(scores: Sequence[Score], temperature: float) -> tuple[Score, ...]:
    """The scores with their probabilities at a temperature; log-likelihoods and order stay as they are."""
    weights = [math.exp((score.logprob - scores[0].logprob) / temperature) for score in scores]
    total = math.fsum(weights)
    return tuple(replace(score, probability=weight / total) for score, weight in zip(scores, weights, strict=True))


def measure_confidence(logprobs: Sequence[float]) -> Confidence | None:
    """Summary of the log-probabilities of an answer's tokens; None for beams, and for a server that tells none."""
    return Confidence(math.fsum(logprobs) / len(logprobs), min(logprobs)) if logprobs else None


def normalize(
    logprobs: Sequence[float],
    kind: Normalization,
    labels: Sequence[Sequence[Any]],
    prior: Sequence[float] = (),
) -> list[float]:
    """Scores as they are, per token of each label, or less what the labels score without the image."""
    if kind == "tokens":
        return [logprob / len(label) for logprob, label in zip(logprobs, labels, strict=True)]
    if kind == "pmi":
        return [logprob - before for logprob, before in zip(logprobs, prior, strict=True)]
    return list(logprobs)
