"""One thread owns the model; requests that arrive within a few milliseconds are answered in one batch.

The backend plans the batches and what they share. Knows jobs, neither HTTP nor pixels.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from ..engine.listener import Listener
from ..errors import IdeficsError
from ..values import Image, Request
from .jobs import Job, Outcomes
from .metrics import Metrics

QUIET_SECONDS = 0.002
"""Nothing more arrived for so long: those who came together are here."""
GATHER_SECONDS = 0.01
"""The longest that a request waits for others while the model is idle."""

T = TypeVar("T")
_log = logging.getLogger("idefics.serve")


class Refused(IdeficsError):
    """A job is not taken: the queue is full, or the server is ending. Not the fault of an item."""

    def __init__(self, *, is_ending: bool) -> None:
        said = "the server is ending" if is_ending else "the queue is full"
        super().__init__(said, code="ending" if is_ending else "busy")
        self.is_ending = is_ending


class Answerer(Protocol):
    """The part of a backend that is used here."""

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
        *,
        listeners: Sequence[Listener | None] = (),
    ) -> Outcomes: ...


class JobQueue:
    """Jobs in order; at most `size` requests wait."""

    def __init__(self, *, rows: int, size: int) -> None:
        self._rows = rows
        self._size = size
        self._jobs: deque[Job] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        with self._changed:
            return self._count()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Refused. One that is larger than the queue is taken when nothing else waits."""
        with self._changed:
            if self._is_closed:
                raise Refused(is_ending=True)
            if self._jobs and self._count() + len(job.requests) > self._size:
                raise Refused(is_ending=False)
            self._jobs.append(job)
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more jobs. Queued ones are still answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _count(self) -> int:
        return sum(len(job.requests) for job in self._jobs if not job.is_cancelled)

    def _take(self, most: int) -> list[Job]:
        """The next jobs with at most `most` requests together, or one larger job."""
        taken: list[Job] = []
        count = 0
        while self._jobs and (not taken or count + len(self._jobs[0].requests) <= most):
            job = self._jobs.popleft()
            if job.is_cancelled:
                job.outcomes.cancel()
                continue
            taken.append(job)
            count += len(job.requests)
        return taken


class Scheduler(JobQueue):
    """Answers jobs in order, about `rows` requests at a time; at most `size` wait."""

    def __init__(self, backend: Answerer, metrics: Metrics, *, rows: int, size: int) -> None:
        super().__init__(rows=rows, size=size)
        self._backend = backend
        self._metrics = metrics
        self._calls: deque[Callable[[], None]] = deque()
        self._is_working = False
        self._batches = 0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not (self._jobs or self._calls or self._is_working)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function while nothing else uses the model."""
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

    def _run(self) -> None:
        while self._wait():
            with self._changed:
                self._is_working = True
                calls, self._calls = list(self._calls), deque()
                jobs = self._take(self._rows)
            for call in calls:
                call()
            if jobs:
                self._answer(jobs)
            with self._changed:
                self._is_working = False

    def _wait(self) -> bool:
        """Wait for work and then, shortly, for more that arrives with it. False at the end."""
        with self._changed:
            while not self._jobs and not self._calls:
                if self._is_closed:
                    return False
                self._changed.wait()
            limit = time.monotonic() + GATHER_SECONDS
            while (left := limit - time.monotonic()) > 0 and self._count() < self._rows:
                if not self._changed.wait(min(left, QUIET_SECONDS)):
                    break
            return True

    def _answer(self, jobs: Sequence[Job]) -> None:
        began = time.perf_counter()
        try:
            outcomes = self._ask(jobs)
        except BaseException as error:  # a panic in a library in Rust, too: nothing ends this thread
            if len(jobs) > 1:
                # Whosever fault it was, the others have theirs answered.
                for job in jobs:
                    self._answer([job])
                return
            if not isinstance(error, IdeficsError):
                _log.exception("a request failed")
            jobs[0].outcomes.set_exception(error)
            return
        seconds = time.perf_counter() - began
        self._metrics.count_batch(len(outcomes), seconds)
        self._metrics.count_outcomes(outcomes)
        self._batches += 1
        rest = iter(outcomes)
        for job in jobs:
            job.batch = self._batches, len(outcomes), seconds
            own = [next(rest) for _ in job.requests]
            # A future may be cancelled by the one who waits for it.
            with contextlib.suppress(Exception):
                job.outcomes.set_result(own)

    def _ask(self, jobs: Sequence[Job]) -> Outcomes:
        images: dict[str, Image] = {}
        for job in jobs:
            images |= job.images
        requests = [request for job in jobs for request in job.requests]
        listeners = [listener for job in jobs for listener in job.listeners]
        return self._backend.answer(requests, images, listeners=listeners)
