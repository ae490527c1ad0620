"""The likelihoods of an answer's tokens: their summary, and each one."""

from __future__ import annotations

import math

from ..engine.generate import Generation
from ..engine.processors import Likeliest
from ..models.families.family import Family
from ..values import AnswerToken, Confidence


def measure_confidence(made: Generation) -> Confidence | None:
    """Summary of the log-probabilities of an answer's tokens; None for beams, which have none."""
    if not made.logprobs:
        return None
    return Confidence(math.fsum(made.logprobs) / len(made.logprobs), min(made.logprobs))


def list_tokens(family: Family, made: Generation) -> tuple[AnswerToken, ...]:
    """Each token as its own text, with the most likely ones at its place."""

    def name(index: int, logprob: float, others: Likeliest = ()) -> AnswerToken:
        return AnswerToken(family.decode([index]), logprob, tuple(name(*one) for one in others))

    return tuple(map(name, made.ids, made.logprobs, made.likeliest or [()] * len(made.ids)))
