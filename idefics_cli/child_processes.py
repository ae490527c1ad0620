"""Child processes for work that cannot be stopped in a thread, or that would block all other threads.

They are kept for the next question and end by themselves after a while without one, or with their parent. Knows
messages of JSON and bytes, not what is asked.
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
    """What starts a function of ours in a Python of its own, wherever the package lies."""
    root = str(Path(__file__).parents[1])
    return [sys.executable, "-P", "-c", _MAIN, root, module, function, *arguments]


class ChildProcesses:
    """Processes that run `serve` of one module of ours, so many of them kept while they have nothing to do."""

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
        """A process, and whether it has been asked before: it may be ending by itself just now."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process, True
                end(process)
        pipe = subprocess.PIPE
        return subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL), False

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """Let it wait for the next question."""
        with self._lock:
            if len(self._idle) < self._kept:
                self._idle.append(process)
                return
        end(process)

    def end_idle(self) -> None:
        """End those that wait for another question."""
        with self._lock:
            while self._idle:
                end(self._idle.pop())


def ask(process: subprocess.Popen[bytes], head: dict[str, Any], *body: bytes) -> tuple[dict[str, Any], bytes]:
    """What a process replies to a message. Raises OSError, EOFError or ValueError where it ends instead."""
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
    """In a process: where questions come in, and replies go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; with it ends the input
    source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library may have to say is no reply
    return source, sink


def set_alarm(seconds: float) -> None:
    """In a process: end after so long, also when the parent is no longer there to see to it."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def bound_memory(count: int) -> None:
    """In a process: take no more bytes than this, where the system can hold to it."""
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
