"""Prints messages of the layers below, which write to the log of the package and never print."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .bugs import list_trace
from .output import Talk

PACKAGE = __name__.partition(".")[0]


@contextmanager
def log_to(talk: Talk) -> Iterator[None]:
    """Within the context, notes and warnings go to standard error unless quiet, details only if verbose."""
    log = logging.getLogger(PACKAGE)
    handler = _TalkHandler(talk)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _TalkHandler(logging.Handler):
    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            # What it came to is told by whoever it happened to.
            for line in list_trace(record.exc_info[1]):
                self._talk.detail(line)
            return
        say = self._talk.detail if record.levelno < logging.INFO else self._talk.note
        say(record.getMessage())
