"""The queue of a server with worker processes: jobs go to them as they have room.

Like the scheduler of one model, it bounds the requests that wait. Knows jobs, neither HTTP nor processes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..backends import Outcome, PreparedRequest
from ..backends.pool.backend import WAIT_SECONDS
from ..errors import IdeficsError, ServerLost
from .job_queue import JobQueue, Refused
from .jobs import Job
from .metrics import Metrics
from .workers import AskedJob, ServedPool

TEND_SECONDS = 1.0
"""How often lost workers are looked for while there is nothing to ask."""
PREVIEWERS = 4

T = TypeVar("T")
_log = logging.getLogger("idefics.serve")


class PoolScheduler(JobQueue):
    """Hands jobs to workers in order, as many as fit; at most `size` requests wait."""

    def __init__(self, pool: ServedPool, metrics: Metrics, *, rows: int, size: int) -> None:
        super().__init__(size=size)
        self._pool = pool
        self._rows = rows
        self._metrics = metrics
        self._asked: dict[int, AskedJob] = {}
        self._callers = ThreadPoolExecutor(PREVIEWERS, "preview")
        pool.count_given(metrics.count_given)
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not (self._jobs or self._asked)

    def call(self, function: Callable[[], T]) -> Future[T]:
        if self._is_closed:
            raise Refused(is_ending=True)
        return self._callers.submit(function)

    def close(self) -> None:
        """Take no more jobs. Queued ones are still answered; then the workers end."""
        super().close()
        self._thread.join()
        self._callers.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not (self._is_closed and self.is_idle):
            try:
                for pair in self._pool.answer_prepared(self._take_requests):
                    if pair is not None:
                        self._end(*pair)
                    elif self._asked:
                        self._check_alone()
                    else:
                        self._pool.tend()
            except BaseException as error:  # nothing ends this thread
                if not isinstance(error, IdeficsError):
                    _log.exception("the workers cannot be asked")
                self._fail(error)
                time.sleep(TEND_SECONDS)
        self._pool.close()

    def _take_requests(self, count: int, wait: bool) -> list[PreparedRequest] | None:
        with self._changed:
            if wait and not self._jobs and not self._is_closed:
                self._changed.wait(TEND_SECONDS)
            if self._is_closed and not self._jobs:
                return None
            taken: list[PreparedRequest] = []
            for job in self._take(count):
                asked = self._asked[id(job)] = AskedJob(job)
                taken += self._pool.cut(asked, self._rows)
        return taken

    def _take(self, most: int) -> list[Job]:
        """The next jobs with at most `most` requests together, or one larger job."""
        self._drop_over()
        taken: list[Job] = []
        while self._jobs and (not taken or self._jobs[0].waiting <= most):
            job = self._jobs.popleft()
            taken.append(job)
            most -= job.waiting
        return taken

    def _end(self, unit: PreparedRequest, outcome: Outcome) -> None:
        asked: AskedJob = unit.work.asked
        job = asked.job
        if len(job.ended) == len(job.requests) - 1:
            with self._changed:
                self._asked.pop(id(job), None)
        if asked.failure is not None:
            job.fail(asked.failure)
        self._metrics.count_outcomes([outcome])
        job.end(unit.work.number, outcome)

    def _check_alone(self) -> None:
        """Fail all jobs if the workers have been gone for too long."""
        if self._pool.lonely_seconds > WAIT_SECONDS:
            self._fail(ServerLost("no worker is there; they are being started again", hint="ask again later"))

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            failed = [asked.job for asked in self._asked.values()]
            self._asked.clear()
        for job in failed:
            job.abandon()
            job.fail(error)
