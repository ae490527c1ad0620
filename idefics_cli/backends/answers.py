"""From what the engine made of a request to its answer: a text with the likelihoods of its tokens, or a ranking."""

from __future__ import annotations

import math
from dataclasses import replace

from ..engine.generate import Generation
from ..engine.label_scoring import Ranking
from ..engine.processors import Likeliest
from ..errors import AnswerError, ItemError
from ..models.families.family import Family
from ..ranking import measure_confidence, normalize, rank
from ..values import Answer, AnswerToken, Confidence, Usage
from .backend import Outcome
from .tasks import NOT_FINITE_HINT, Answered, EncodedRequest


def compose_answer(family: Family, answered: Answered) -> Outcome:
    """The answer of a request, or what failed."""
    done, prior = answered.done, answered.prior
    if isinstance(done, ItemError):
        return done
    if isinstance(prior, ItemError):
        return prior
    task: EncodedRequest = answered.prepared.work
    request, outcome = task.request, done.outcome
    if not outcome.is_finite or not all(map(math.isfinite, prior)):
        return AnswerError(
            "the model computed values that are not numbers (NaN or infinite) for this item",
            code="not_finite",
            hint=NOT_FINITE_HINT,
        )
    usage = Usage(prompt_tokens=len(task.encoded.ids), shared_tokens=outcome.shared_tokens)
    said = family.read_prompt(request.prompt)
    if outcome.generation is not None:
        return Answer(
            text=outcome.generation.text,
            full_text=said + outcome.generation.text,
            finish_reason=outcome.generation.finish_reason,
            usage=replace(usage, new_tokens=outcome.generation.new_tokens),
            seconds=done.seconds,
            confidence=measure_confidence(outcome.generation.logprobs),
            warnings=task.warnings,
            tokens=_list_tokens(family, outcome.generation) if request.wants_tokens else (),
        )
    assert isinstance(task.work, Ranking)
    logprobs = normalize(outcome.scores, request.normalize, task.work.labels, prior)
    scores = rank(request.choices, logprobs)
    return Answer(
        text=scores[0].label,
        full_text=f"{said} {scores[0].label}",
        scores=scores,
        usage=usage,
        seconds=done.seconds,
        confidence=Confidence(margin=scores[0].logprob - scores[1].logprob) if len(scores) > 1 else None,
        warnings=task.warnings,
    )


def _list_tokens(family: Family, made: Generation) -> tuple[AnswerToken, ...]:
    """Each token as its own text, with the most likely ones at its place."""

    def name(index: int, logprob: float, others: Likeliest = ()) -> AnswerToken:
        return AnswerToken(family.decode([index]), logprob, tuple(name(*one) for one in others))

    return tuple(map(name, made.ids, made.logprobs, made.likeliest or [()] * len(made.ids)))
