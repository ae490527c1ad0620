"""The process that `isolated` starts: decodes files until there are no more or its time is over."""

from __future__ import annotations

import os
from pathlib import Path

from ..child_processes import IDLE_SECONDS, bound_memory, open_streams, receive, send, set_alarm
from ..errors import SourceError
from .decode import decode_here
from .document import count_here
from .limits import Limits

GRACE_SECONDS = 5
MEMORY_BYTES = 2_000_000_000
"""What a decoder may take beyond sixteen bytes for each pixel that is allowed."""


def serve() -> None:
    """Answer questions from standard input on standard output."""
    source, sink = open_streams()
    while True:
        set_alarm(IDLE_SECONDS)
        try:
            asked, content = receive(source)
        except EOFError:
            return
        limits = Limits(**asked["limits"] | {"background": tuple(asked["limits"]["background"])})
        set_alarm(limits.decode_seconds + GRACE_SECONDS)
        bound_memory(MEMORY_BYTES + 16 * limits.max_pixels)
        data = content if asked["path"] is None else Path(os.fsdecode(bytes.fromhex(asked["path"])))
        try:
            if "counts_pages" in asked:
                send(sink, {"pages": count_here(data, asked["name"])})
                continue
            pixels, notes = decode_here(data, asked["page"], asked["name"], limits)
        except SourceError as error:
            send(sink, {"code": error.code, "message": str(error)})
        else:
            send(sink, {"size": pixels.size, "notes": notes}, pixels.tobytes())
