"""Requests on their way through the engine: which of their works are run once for all, and what speaks for the model.

Knows neither prompts nor answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..engine.engine import Engine, Work
from ..engine.flow import answer_all
from ..engine.label_scoring import Ranking
from ..engine.oom_retry import Done
from ..errors import ItemError, ModelError
from ..lru import LRUCache
from ..models.families.family import Encoded
from ..values import AnswerWarning, Request
from .backend import WINDOW_BATCHES

PRIORS = 64
"""How many sets of labels keep their scores without an image, which are the same for every image."""

PriorKey = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRequest:
    """One request on its way to an answer. `prior` ranks its choices without the images, where that is wanted."""

    request: Request
    encoded: Encoded
    work: Work
    prior: Ranking | None = None
    warnings: tuple[AnswerWarning, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What came of a task, and what its labels score without the images, if anyone asked."""

    task: EncodedRequest
    done: Done | ItemError
    prior: tuple[float, ...] | ItemError = ()


TakeTasks = Callable[[int, bool], list[EncodedRequest] | None]


class TaskFlow:
    """Answers tasks as they end. Most images of a run share their priors, which are computed once."""

    def __init__(self, checkpoint: str, *, hint: str) -> None:
        self._checkpoint = checkpoint
        self._hint = hint
        self._priors: LRUCache[PriorKey, tuple[float, ...]] = LRUCache(PRIORS)
        self._has_computed = False

    def answer(
        self, open_engine: Callable[[], Engine], take: TakeTasks, *, rows: int
    ) -> Iterator[Answered | None]:
        """Each task as it ends; None now and then while there is nothing. The engine is opened for the first ones.

        Raises ModelError when the first ones it computes all come out as no numbers.
        """
        tasks: dict[int, EncodedRequest] = {}
        asked: dict[int, PriorKey] = {}
        priors: dict[PriorKey, tuple[float, ...] | ItemError] = {}

        def take_works(count: int, wait: bool) -> list[Work] | None:
            taken = take(count, wait)
            if taken is None:
                return None
            tasks.update((id(task.work), task) for task in taken)
            works = [task.work for task in taken]
            for task in taken:
                key = _name_prior(task)
                if key is None or key in priors or key in asked.values():
                    continue
                known = self._priors.find(key)
                if known is not None:
                    priors[key] = known
                    continue
                assert task.prior is not None
                asked[id(task.prior)] = key
                works.append(task.prior)
            return works

        first = take_works(WINDOW_BATCHES * rows, True)
        while first is not None and not first:
            yield None
            first = take_works(WINDOW_BATCHES * rows, True)
        if first is None:
            return
        begun = iter([first])
        waiting: list[tuple[EncodedRequest, Done | ItemError]] = []
        broken: list[Answered] = []
        ended = answer_all(
            open_engine(), lambda count, wait: next(begun, None) or take_works(count, wait), rows=rows
        )
        for pair in ended:
            if pair is None:
                yield None
                continue
            work, done = pair
            key = asked.pop(id(work), None)
            if key is None:
                waiting.append((tasks.pop(id(work)), done))
            elif isinstance(done, Done):
                priors[key] = done.outcome.scores
                self._priors.keep(key, done.outcome.scores)
            else:
                priors[key] = done
            complete = [each for each in waiting if _name_prior(each[0]) not in asked.values()]
            waiting = [each for each in waiting if each not in complete]
            for task, own in complete:
                name = _name_prior(task)
                answered = Answered(task, own, () if name is None else priors[name])
                if isinstance(own, Done) and not self._has_computed:
                    self._has_computed = own.outcome.is_finite
                    if not self._has_computed:
                        broken.append(answered)
                        self._check(len(broken) <= WINDOW_BATCHES * rows)
                        continue
                    yield from broken
                    broken = []
                yield answered
            wanted = {_name_prior(task) for task in (*tasks.values(), *(each[0] for each in waiting))}
            priors = {key: scores for key, scores in priors.items() if key in wanted}
        self._check(not broken)

    def _check(self, computes: bool) -> None:
        """One item may overflow; where nothing was ever computed, it is the model."""
        if not computes:
            raise ModelError(
                f"{self._checkpoint} computes nothing but what is no number (NaN or infinite)",
                hint=self._hint,
            )


def _name_prior(task: EncodedRequest) -> PriorKey | None:
    return None if task.prior is None else (task.prior.encoded.ids, task.prior.labels)
