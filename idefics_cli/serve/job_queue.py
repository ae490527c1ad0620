"""Jobs that wait, in order, and what is refused: the queue has a bound. Knows nothing of who answers them."""

from __future__ import annotations

import threading
from collections import deque

from ..errors import IdeficsError
from .jobs import Job


class Refused(IdeficsError):
    """A job is not taken: the queue is full, or the server is ending. Not the fault of an item."""

    def __init__(self, *, is_ending: bool) -> None:
        said = "the server is ending" if is_ending else "the queue is full"
        super().__init__(said, code="ending" if is_ending else "busy")
        self.is_ending = is_ending


class JobQueue:
    """Jobs in order; at most `size` requests wait."""

    def __init__(self, *, size: int) -> None:
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
        return sum(job.waiting for job in self._jobs if not job.is_over)

    def _drop_over(self) -> None:
        """Forget the jobs that nobody waits for, or of which nothing waits."""
        for job in self._jobs:
            if job.is_over:
                job.outcomes.cancel()
        self._jobs = deque(job for job in self._jobs if job.waiting and not job.is_over)
