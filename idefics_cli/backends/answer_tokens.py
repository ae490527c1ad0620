"""What is told of the tokens of an answer: how likely they were, on the whole and one by one."""

from __future__ import annotations

import math

from ..engine.generate import Generation
from ..engine.processors import Likeliest
from ..models.families.family import Family
from ..values import AnswerToken, Confidence


def measure_confidence(made: Generation) -> Confidence | None:
    """How likely the tokens of an answer were; None for beams, which do not tell."""
    if not made.logprobs:
        return None
    return Confidence(math.fsum(made.logprobs) / len(made.logprobs), min(made.logprobs))


def list_tokens(family: Family, made: Generation) -> tuple[AnswerToken, ...]:
    """Each token as its own text, with those that were the likeliest at its place."""

    def name(index: int, logprob: float, others: Likeliest = ()) -> AnswerToken:
        return AnswerToken(family.decode([index]), logprob, tuple(name(*one) for one in others))

    return tuple(map(name, made.ids, made.logprobs, made.likeliest or [()] * len(made.ids)))
