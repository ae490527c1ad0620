"""A program on a terminal of some width: what the screen shows, as a terminal emulator draws it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyte

from tests.scripted_program import ROOT

ROWS = 40
SECONDS = 120
"""A busy machine takes long to start a program."""


@dataclass(frozen=True)
class Shown:
    code: int
    lines: list[str]
    """All that was shown, line by line of the screen, what went out of it at the top included."""
    moments: list[list[str]] = field(default_factory=list)
    """The screen, each time something new had come."""


def show(command: Sequence[str], columns: int, *, keeps_stdout: bool = False, **environment: str) -> Shown:
    """Run a command on a terminal of so many columns. With `keeps_stdout` only what it says is on the screen."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    names = {**os.environ, "TERM": "xterm", **environment}
    for name in ("COLUMNS", "TERMINAL_WIDTH", "NO_COLOR"):
        names.pop(name, None)
    stdout = subprocess.DEVNULL if keeps_stdout else side
    process = subprocess.Popen(command, cwd=ROOT, env=names, stdin=side, stdout=stdout, stderr=side)
    os.close(side)
    screen = pyte.HistoryScreen(columns, ROWS, history=100_000)
    stream = pyte.ByteStream(screen)
    moments: list[list[str]] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and select.select([main], [], [], SECONDS)[0]:
        try:
            piece = os.read(main, 65536)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not piece:
            break
        stream.feed(piece)
        moments.append([line.rstrip() for line in screen.display])
    os.close(main)
    return Shown(process.wait(30), list_lines(screen), moments)


def draw(text: str, columns: int) -> list[str]:
    """The lines of a screen that was sent this text."""
    screen = pyte.HistoryScreen(columns, ROWS, history=100_000)
    pyte.Stream(screen).feed(text)
    return list_lines(screen)


def list_lines(screen: pyte.HistoryScreen) -> list[str]:
    gone = ["".join(row[place].data for place in range(screen.columns)) for row in screen.history.top]
    return [line.rstrip() for line in (*gone, *screen.display)]
