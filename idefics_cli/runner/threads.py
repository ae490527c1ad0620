"""Threads that share work: tasks start in the order in which they came, as soon as they may.

Knows nothing of the tasks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Task = TypeVar("Task")


def start(target: Callable[[], None]) -> None:
    """Run a function in a daemon thread, which the program does not wait for at its end."""
    threading.Thread(target=target, name="idefics", daemon=True).start()


class WorkerPool(Generic[Task]):
    """Up to `size` threads, started as they are needed. Every method is called with the lock held.

    They are daemons: an interrupted run does not wait for images that are still on their way.
    """

    def __init__(
        self, lock: threading.Lock, size: int, work: Callable[[Task], None], may_begin: Callable[[Task], bool]
    ) -> None:
        self._condition = threading.Condition(lock)
        self._size = size
        self._work_on = work
        self._may_begin = may_begin
        self._queue: deque[Task] = deque()
        self._threads = self._idle = 0
        self._is_closed = False

    def add(self, task: Task) -> None:
        self._queue.append(task)
        if self._idle < len(self._queue) and self._threads < self._size:
            self._threads += 1
            start(self._work)
        self._condition.notify()

    def wake(self) -> None:
        """Check again which tasks may start."""
        if self._queue:
            self._condition.notify_all()

    def close(self) -> None:
        self._is_closed = True
        self._condition.notify_all()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            self._work_on(task)

    def _next(self) -> Task | None:
        with self._condition:
            self._idle += 1
            while not self._is_closed:
                task = next((task for task in self._queue if self._may_begin(task)), None)
                if task is not None:
                    self._queue.remove(task)
                    self._idle -= 1
                    return task
                self._condition.wait()
            return None
