"""Ctrl-C and SIGTERM during a run: the first ends it after the current batch, the second at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from .output import say_at_once

INTERRUPTED = 130


class Interrupts:
    """Handles the two signals within its context, if there is something worth finishing."""

    def __init__(self, *, is_gentle: bool) -> None:
        self._is_gentle = is_gentle and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}
        self.were_heard = False

    def __enter__(self) -> Self:
        if self._is_gentle:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def should_stop(self) -> bool:
        return self.were_heard

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.were_heard:
            raise KeyboardInterrupt
        self.were_heard = True
        say_at_once("finishing the current batch; press Ctrl-C again to stop now")
