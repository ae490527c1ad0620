"""Requests in the engine; the priors that they are compared with are run once for all of them.

Knows neither prompts nor answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..engine.engine import Work
from ..engine.label_scoring import Ranking
from ..engine.oom_retry import Done
from ..errors import ItemError, ModelError
from ..lru import LRUCache
from ..models.families.family import Encoded
from ..values import AnswerWarning, Request
from .backend import PreparedRequest, TakePrepared

PRIORS = 64
"""How many sets of labels keep their scores without an image, which are the same for every image."""
NOT_FINITE_HINT = (
    "try --dtype float32 or bfloat16, another --quantize or none, or download the checkpoint anew "
    "(idefics models remove, then idefics models pull)"
)

PriorKey = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRequest:
    """One encoded request. `prior` ranks its choices without the images, if that is wanted."""

    request: Request
    encoded: Encoded
    work: Work
    prior: Ranking | None = None
    warnings: tuple[AnswerWarning, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """The outcome of a task and, if it was wanted, the scores of its labels without the images."""

    prepared: PreparedRequest
    done: Done | ItemError
    prior: tuple[float, ...] | ItemError = ()


@dataclass(slots=True, eq=False)
class ModelRecord:
    """What is known of a loaded model from the tasks it ran."""

    checkpoint: str
    priors: LRUCache[PriorKey, tuple[float, ...]] = field(default_factory=lambda: LRUCache(PRIORS))
    has_computed: bool = False
    """Whether it ever computed a number that is one: one item may overflow; where none was finite, it is the model."""


class PendingTasks:
    """The tasks of one run. Most images of a run share their priors, which are computed once."""

    def __init__(self, take: TakePrepared, record: ModelRecord) -> None:
        self._take = take
        self._record = record
        self._prepared: dict[int, PreparedRequest] = {}
        self._asked: dict[int, PriorKey] = {}
        self._priors: dict[PriorKey, tuple[float, ...] | ItemError] = {}
        self._waiting: list[Answered] = []
        self._broken: list[Answered] = []

    def take(self, count: int, wait: bool) -> list[Work] | None:
        """The works of at most so many tasks, with those of their priors that nobody asked for yet."""
        taken = self._take(count, wait)
        if taken is None:
            return None
        works: list[Work] = []
        for one in taken:
            task: EncodedRequest = one.work
            self._prepared[id(task.work)] = one
            works.append(task.work)
            key = _name_prior(one)
            if task.prior is None or key is None or key in self._priors or key in self._asked.values():
                continue
            if (known := self._record.priors.find(key)) is not None:
                self._priors[key] = known
            else:
                self._asked[id(task.prior)] = key
                works.append(task.prior)
        return works

    def end(self, work: Work, done: Done | ItemError, *, most_broken: int) -> list[Answered]:
        """The tasks that are complete now that this work has ended.

        Raises ModelError when the first ones, more than `most_broken`, all have logits that are not finite.
        """
        key = self._asked.pop(id(work), None)
        if key is None:
            self._waiting.append(Answered(self._prepared.pop(id(work)), done))
        elif isinstance(done, Done):
            self._priors[key] = done.outcome.scores
            self._record.priors.keep(key, done.outcome.scores)
        else:
            self._priors[key] = done
        complete = [one for one in self._waiting if _name_prior(one.prepared) not in self._asked.values()]
        self._waiting = [one for one in self._waiting if one not in complete]
        answered: list[Answered] = []
        for one in complete:
            name = _name_prior(one.prepared)
            one = one if name is None else replace(one, prior=self._priors[name])
            if isinstance(one.done, Done) and not self._record.has_computed:
                self._record.has_computed = one.done.outcome.is_finite
                if not self._record.has_computed:
                    self._broken.append(one)
                    self.check(most_broken)
                    continue
                answered += self._broken
                self._broken = []
            answered.append(one)
        left = (*self._prepared.values(), *(one.prepared for one in self._waiting))
        wanted = set(map(_name_prior, left))
        self._priors = {key: scores for key, scores in self._priors.items() if key in wanted}
        return answered

    def check(self, most_broken: int = 0) -> None:
        """Raise ModelError if more than these had logits that are not finite, and no other ever ran well."""
        if len(self._broken) > most_broken:
            raise ModelError(f"{self._record.checkpoint} computes only NaN or infinite values", hint=NOT_FINITE_HINT)


def _name_prior(prepared: PreparedRequest) -> PriorKey | None:
    task: EncodedRequest = prepared.work
    return None if task.prior is None else (task.prior.encoded.ids, task.prior.labels)
