"""How long a decode may go on: what is read of a file is read in time, or not at all.

A decoder written in Python ends at its next read; one that is not is ended with its process (`isolated`).
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
    """The end of one decode: so many seconds after it starts, or as soon as whoever asked gives it up."""

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
        """End the decode from another thread: nobody waits for it any more."""
        with self._lock:
            self._is_given_up = True
            if self._stop is not None:
                self._stop()

    def call_when_given_up(self, stop: Callable[[], object] | None) -> None:
        """What ends a decode that reads nothing for long; None when there is nothing to end."""
        with self._lock:
            self._stop = stop
            if self._is_given_up and stop is not None:
                stop()

    def check(self) -> None:
        """Raise SourceError(timeout) if it is over."""
        if self.left_seconds <= 0:
            raise SourceError(
                f"{self._name} takes longer than {self._seconds:g} s to decode",
                code="timeout",
                hint="save it again with another program, or set a longer --decode-timeout",
            )


def time_bytes(content: bytes, deadline: Deadline) -> IO[bytes]:
    """Bytes as a file that can only be read in time."""
    timed = _TimedBytes(content)
    timed.deadline = deadline
    return timed


def time_file(file: io.FileIO, deadline: Deadline) -> IO[bytes]:
    """An open file that can only be read in time."""
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
