"""How long a decode may take: reads of its file fail once the time is over.

A decoder written in Python stops at its next read; any other is stopped with its process (`isolated`).
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable
from typing import IO

from ..errors import SourceError


class Deadline:
    """The end of one decode: a number of seconds after it starts, or earlier if its caller gives up."""

    def __init__(self) -> None:
        self._name, self._seconds, self._end = "the image", math.inf, math.inf
        self._lock = threading.Lock()
        self._is_given_up = False
        self._stop: Callable[[], object] | None = None

    def start(self, seconds: float, name: str) -> None:
        self._name, self._seconds, self._end = name, seconds, time.monotonic() + seconds

    @property
    def left_seconds(self) -> float:
        return 0.0 if self._is_given_up else max(0.0, self._end - time.monotonic())

    def give_up(self) -> None:
        """End the decode, from another thread: nobody waits for it any more."""
        with self._lock:
            self._is_given_up = True
            if self._stop is not None:
                self._stop()

    def call_when_given_up(self, stop: Callable[[], object] | None) -> None:
        """Set a function that ends a decode which does not read for long; None for none."""
        with self._lock:
            self._stop = stop
            if self._is_given_up and stop is not None:
                stop()

    def check(self) -> None:
        """Raise SourceError(timeout) after the deadline."""
        if self.left_seconds <= 0:
            raise SourceError(
                f"{self._name} takes longer than {self._seconds:g} s to decode",
                code="timeout",
                hint="save it again with another program, or set a longer --decode-timeout",
            )


def time_bytes(content: bytes, deadline: Deadline) -> IO[bytes]:
    """Bytes as a file whose reads fail after the deadline."""
    timed = _TimedBytes(content)
    timed.deadline = deadline
    return timed


def time_file(file: io.FileIO, deadline: Deadline) -> IO[bytes]:
    """An open file whose reads fail after the deadline."""
    timed = _TimedFile(file)
    timed.deadline = deadline
    return timed


class _TimedBytes(io.BytesIO):
    deadline: Deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self.deadline.check()
        return super().read(size)


class _TimedFile(io.BufferedReader):
    deadline: Deadline

    def read(self, size: int | None = -1, /) -> bytes:
        self.deadline.check()
        return super().read(size)
