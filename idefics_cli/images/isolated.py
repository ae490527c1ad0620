"""Decoding in a child process, for what cannot be interrupted in a thread; the process is killed after its time."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL.Image

from ..child_processes import ChildProcesses, ask, end
from ..errors import SourceError
from .deadline import Deadline
from .limits import Limits

decoders = ChildProcesses(f"{__package__}.decoder_process", kept=(os.cpu_count() or 1) + 1)


def decode_isolated(
    content: bytes | Path, page: int | None, name: str, limits: Limits, deadline: Deadline
) -> tuple[PIL.Image.Image, list[str]]:
    """Pixels and notes, as `decode` gives them, from a child process. Raises SourceError."""
    reply, pixels = ask_decoder({"page": page}, content, name, limits, deadline)
    return PIL.Image.frombytes("RGB", tuple(reply["size"]), pixels), reply["notes"]


def ask_decoder(
    question: dict[str, Any], content: bytes | Path, name: str, limits: Limits, deadline: Deadline
) -> tuple[dict[str, Any], bytes]:
    """The answer of such a process about a file. Raises SourceError."""
    path = os.fsencode(content).hex() if isinstance(content, Path) else None
    asked = {**question, "name": name, "limits": asdict(limits), "path": path}
    while True:
        deadline.check()
        process, is_used = decoders.take()
        timer = threading.Timer(deadline.left_seconds, process.kill)
        timer.daemon = True
        timer.start()
        deadline.call_when_given_up(process.kill)
        try:
            reply, body = ask(process, asked, *([content] if isinstance(content, bytes) else []))
        except (OSError, EOFError, ValueError):
            end(process)
            deadline.check()
            if is_used:
                continue  # it may have ended by itself, in the moment it was taken
            raise SourceError(f"{name} is damaged: its decoder crashed", code="not_an_image") from None
        except BaseException:
            end(process)
            raise
        finally:
            timer.cancel()
            deadline.call_when_given_up(None)
        decoders.keep(process)
        if "code" in reply:
            raise SourceError(reply["message"], code=reply["code"])
        return reply, body
