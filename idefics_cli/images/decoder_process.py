"""The process that `isolated` starts: decodes what comes in, until nothing more does or its time is over."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from ..errors import SourceError
from .decode import decode_here
from .isolated import receive, send
from .limits import Limits

IDLE_SECONDS = 60
GRACE_SECONDS = 5
MEMORY_BYTES = 2_000_000_000
"""What a decoder may take beyond sixteen bytes for each pixel that is allowed."""


def serve() -> None:
    """Answer on standard output what is asked on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; with it ends the input
    source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library may have to say is no reply
    while True:
        _set_alarm(IDLE_SECONDS)
        try:
            asked, content = receive(source)
        except EOFError:
            return
        limits = Limits(**asked["limits"] | {"background": tuple(asked["limits"]["background"])})
        # The alarm ends this process also when the parent is no longer there to do so.
        _set_alarm(limits.decode_seconds + GRACE_SECONDS)
        _bound_memory(limits)
        data = content if asked["path"] is None else Path(os.fsdecode(bytes.fromhex(asked["path"])))
        try:
            pixels, notes = decode_here(data, asked["name"], limits)
        except SourceError as error:
            send(sink, {"code": error.code, "message": str(error)}, b"")
        else:
            send(sink, {"size": pixels.size, "notes": notes}, pixels.tobytes())


def _set_alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _bound_memory(limits: Limits) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES + 16 * limits.max_pixels, most))
