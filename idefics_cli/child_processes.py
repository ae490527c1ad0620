"""Child processes for work that cannot be stopped in a thread, or that would block all other threads.

They are kept for the next message and end by themselves after some idle time, or with their parent. Knows messages of
JSON and bytes, not their meaning.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

IDLE_SECONDS = 60
_MAIN = """
import sys
root, module, function = sys.argv[1:4]
del sys.argv[1:4]
if root not in sys.path:
    sys.path.insert(0, root)
from importlib import import_module
getattr(import_module(module), function)()
"""
_HEAD = struct.Struct("<II")


def write_command(module: str, function: str, *arguments: str) -> list[str]:
    """The command that runs a function of this package in a new Python, wherever the package is."""
    root = str(Path(__file__).parents[1])
    return [sys.executable, "-P", "-c", _MAIN, root, module, function, *arguments]


class ChildProcesses:
    """Processes that run `serve` of one module; some are kept while they are idle."""

    def __init__(self, module: str, kept: int) -> None:
        self._command = write_command(module, "serve")
        self._kept = kept
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        atexit.register(self.end_idle)

    @property
    def idle_ids(self) -> list[int]:
        with self._lock:
            return [process.pid for process in self._idle]

    def take(self) -> tuple[subprocess.Popen[bytes], bool]:
        """A process, and whether it was used before: it may be ending at this moment."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process, True
                end(process)
        pipe = subprocess.PIPE
        return subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL), False

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """Keep it for the next message."""
        with self._lock:
            if len(self._idle) < self._kept:
                self._idle.append(process)
                return
        end(process)

    def end_idle(self) -> None:
        """End the idle ones."""
        with self._lock:
            while self._idle:
                end(self._idle.pop())


def ask(process: subprocess.Popen[bytes], head: dict[str, Any], *body: bytes) -> tuple[dict[str, Any], bytes]:
    """The reply of a process to a message. Raises OSError, EOFError or ValueError if it ends instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    send(process.stdin, head, *body)
    return receive(process.stdout)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def open_streams() -> tuple[IO[bytes], IO[bytes]]:
    """In a child: where messages come in, and replies go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; with it ends the input
    source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library may have to say is no reply
    return source, sink


def set_alarm(seconds: float) -> None:
    """In a child: end after so long, also if the parent is gone."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def bound_memory(count: int) -> None:
    """In a child: use no more bytes than this, where the system supports it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (count, most))


def send(stream: IO[bytes], head: dict[str, Any], *body: bytes) -> None:
    """A message: JSON, and bytes in pieces."""
    packed = json.dumps(head).encode("ascii")
    stream.write(_HEAD.pack(len(packed), sum(map(len, body))) + packed)
    for piece in body:
        stream.write(piece)
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
