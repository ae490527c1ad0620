"""Decoding in a process of its own, for what cannot be interrupted in a thread. It is ended when its time is over.

Processes are kept for the next image and end by themselves after a minute without one, or with their parent.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import PIL.Image

from ..errors import SourceError
from .deadline import Deadline
from .limits import Limits

KEPT = (os.cpu_count() or 1) + 1
"""Processes that may wait for another image."""
_ROOT = str(Path(__file__).parents[2])
_SERVE = f"{__package__}.decoder_process"
_START = f"import sys; sys.path.insert(0, {_ROOT!r}); from {_SERVE} import serve; serve()"
_HEAD = struct.Struct("<II")

_lock = threading.Lock()
_idle: list[subprocess.Popen[bytes]] = []


def decode_isolated(
    content: bytes | Path, name: str, limits: Limits, deadline: Deadline
) -> tuple[PIL.Image.Image, list[str]]:
    """What `decode` makes of a file: pixels and notes, made elsewhere. Raises SourceError."""
    while True:
        deadline.check()
        process, is_used = _take()
        timer = threading.Timer(deadline.left_seconds, process.kill)
        timer.daemon = True
        timer.start()
        deadline.call_when_given_up(process.kill)
        try:
            reply, pixels = _ask(process, content, name, limits)
        except (OSError, EOFError, ValueError):
            _end(process)
            deadline.check()
            if is_used:
                continue  # it may have ended by itself, in the moment it was taken
            raise SourceError(f"{name} is damaged: its decoder broke down", code="not_an_image") from None
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
            deadline.call_when_given_up(None)
        _keep(process)
        if "code" in reply:
            raise SourceError(reply["message"], code=reply["code"])
        return PIL.Image.frombytes("RGB", tuple(reply["size"]), pixels), reply["notes"]


def _ask(
    process: subprocess.Popen[bytes], content: bytes | Path, name: str, limits: Limits
) -> tuple[dict[str, Any], bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    path = os.fsencode(content).hex() if isinstance(content, Path) else None
    asked = {"name": name, "limits": asdict(limits), "path": path}
    send(process.stdin, asked, content if isinstance(content, bytes) else b"")
    return receive(process.stdout)


def send(stream: IO[bytes], head: dict[str, Any], body: bytes) -> None:
    """A message: JSON, and bytes."""
    packed = json.dumps(head).encode("ascii")
    stream.write(_HEAD.pack(len(packed), len(body)) + packed)
    stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next message. Raises EOFError if there is none."""
    head, body = _HEAD.unpack(_read_all(stream, _HEAD.size))
    return json.loads(_read_all(stream, head)), _read_all(stream, body)


def _read_all(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _take() -> tuple[subprocess.Popen[bytes], bool]:
    """A process, and whether it has decoded before."""
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.poll() is None:
                return process, True
            _end(process)
    command = [sys.executable, "-P", "-c", _START]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL), False


def _keep(process: subprocess.Popen[bytes]) -> None:
    with _lock:
        if len(_idle) < KEPT:
            _idle.append(process)
            return
    _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


@atexit.register
def end_idle() -> None:
    """End the processes that wait for another image."""
    with _lock:
        while _idle:
            _end(_idle.pop())
