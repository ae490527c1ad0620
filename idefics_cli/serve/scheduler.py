"""One thread owns the model. Requests are prepared in others, join those that run, and leave as soon as they end.

The backend plans what they share. Knows jobs, neither HTTP nor pixels.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..backends import Outcome, PreparedRequest
from ..backends.backend import TakePrepared
from ..engine.listener import Listener
from ..errors import IdeficsError, to_item_error
from ..values import Image, Request
from .job_queue import JobQueue, Refused
from .jobs import Job
from .metrics import Metrics

QUIET_SECONDS = 0.002
"""Nothing more arrived for so long: those who came together are here."""
GATHER_SECONDS = 0.01
"""The longest that a request waits for others while the model is idle."""
JOIN_SHARE = 4
"""One part in so many of the rows must be free before several requests join: each time costs a pass of its own."""
PREPARERS = os.cpu_count() or 1

T = TypeVar("T")
_log = logging.getLogger("idefics.serve")


class Answerer(Protocol):
    """The part of a backend that is used here."""

    def prepare(
        self, request: Request, images: Mapping[str, Image], listener: Listener | None = None
    ) -> PreparedRequest: ...

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A request that the model has: one of its job, by number."""

    job: Job
    number: int
    prepared: PreparedRequest


class Scheduler(JobQueue):
    """Answers requests in the order of their jobs, at most `rows` at a time; at most `size` wait."""

    def __init__(self, backend: Answerer, metrics: Metrics, *, rows: int, size: int) -> None:
        super().__init__(size=size)
        self._backend = backend
        self._metrics = metrics
        self._rows = rows
        self._held: dict[int, _Held] = {}
        self._unready = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._is_working = False
        self._preparers = ThreadPoolExecutor(PREPARERS, "preparer")
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not (self._jobs or self._calls or self._is_working)

    def submit(self, job: Job) -> None:
        """Queue a job and prepare its requests. Raises Refused."""
        with self._changed:
            super().submit(job)
            self._unready += len(job.requests)
        for number in range(len(job.requests)):
            self._preparers.submit(self._prepare, job, number)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function while nothing else uses the model: once the requests that it has now have ended."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        with self._changed:
            if self._is_closed:
                raise Refused(is_ending=True)
            self._calls.append(run)
            self._changed.notify_all()
        return future

    def _prepare(self, job: Job, number: int) -> None:
        prepared = None
        try:
            if not job.is_over:
                prepared = self._backend.prepare(job.requests[number], job.images, job.listeners[number])
        except BaseException as error:  # a panic in a library in Rust, too
            self._refuse(job, number, error)
        with self._changed:
            self._unready -= 1
            if prepared is None:
                job.waiting -= 1
            else:
                job.ready.append((number, prepared))
            self._changed.notify_all()

    def _refuse(self, job: Job, number: int, error: BaseException) -> None:
        """A request cannot be prepared."""
        try:
            outcome = to_item_error(error)
        except BaseException as raised:
            self._fail(job, raised)
        else:
            self._metrics.count_outcomes([outcome])
            job.end(number, outcome)

    def _fail(self, job: Job, error: BaseException) -> None:
        if not isinstance(error, IdeficsError):
            _log.error("a request failed", exc_info=error)
        job.fail(error)

    def _run(self) -> None:
        while self._wait():
            with self._changed:
                self._is_working = True
                calls, self._calls = list(self._calls), deque()
                first = self._take(self._rows)
            for call in calls:
                call()
            if first:
                self._answer(first)
            with self._changed:
                self._is_working = False
        self._preparers.shutdown(wait=False)

    def _wait(self) -> bool:
        """Wait for work and then, shortly, for more that arrives with it. False at the end."""
        with self._changed:
            while not self._calls and not self._count_ready():
                self._drop_over()
                if self._is_closed and not self._jobs:
                    return False
                self._changed.wait()
            limit = time.monotonic() + GATHER_SECONDS
            while (left := limit - time.monotonic()) > 0 and self._count_ready() < self._rows:
                if not self._changed.wait(min(left, QUIET_SECONDS)) and not self._unready:
                    break
            return True

    def _count_ready(self) -> int:
        return sum(len(job.ready) for job in self._jobs if not job.is_over)

    def _take(self, most: int) -> list[PreparedRequest]:
        """The next prepared requests, at most so many."""
        taken: list[PreparedRequest] = []
        for job in self._jobs:
            while job.ready and len(taken) < most and not job.is_over:
                number, prepared = job.ready.popleft()
                job.waiting -= 1
                self._held[id(prepared)] = _Held(job, number, prepared)
                taken.append(prepared)
        self._drop_over()
        if taken:
            self._metrics.count_given(len(taken), len(self._held))
        return taken

    def _take_more(self, most: int, wait: bool) -> list[PreparedRequest] | None:
        """Requests that join the running ones; None when these are to end first: all have, or a call waits."""
        with self._changed:
            if wait or self._calls:
                return None
            free = self._rows - len(self._held)
            if free < min(self._count_ready(), max(1, self._rows // JOIN_SHARE)):
                return []
            return self._take(min(most, free))

    def _answer(self, first: list[PreparedRequest]) -> None:
        """Answer until nothing is left. These are given even if a call waits, so that calls do not starve them."""
        try:
            self._ask(first, self._take_more)
        except BaseException as error:  # a panic, too: nothing ends this thread
            if len(self._held) == 1:
                self._drop(next(iter(self._held.values())), error)
        # Whosever fault it was, the others have theirs answered.
        for one in list(self._held.values()):
            if one.job.is_over:
                del self._held[id(one.prepared)]
                continue
            try:
                self._ask([one.prepared], lambda most, wait: None)
            except BaseException as error:
                self._drop(one, error)

    def _ask(self, first: list[PreparedRequest], take_more: TakePrepared) -> None:
        given = iter([first])
        for pair in self._backend.answer_prepared(lambda most, wait: next(given, None) or take_more(most, wait)):
            if pair is not None:
                self._end(*pair)

    def _end(self, prepared: PreparedRequest, outcome: Outcome) -> None:
        held = self._held.pop(id(prepared))
        self._metrics.count_outcomes([outcome])
        held.job.end(held.number, outcome)

    def _drop(self, held: _Held, error: BaseException) -> None:
        """A request that fails alone fails its job."""
        self._held.pop(id(held.prepared), None)
        self._fail(held.job, error)
