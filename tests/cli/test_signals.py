"""Signals and terminals, with real ones."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.scripted_program import COMMAND, ROOT

MODEL = ("--model", "idefics-9b")


@pytest.fixture
def command(red_circle: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    for number in range(100):
        (tmp_path / "in" / f"{number:03}.png").symlink_to(red_circle)
    return [*COMMAND, "caption", str(tmp_path / "in"), *MODEL, "--batch-size=2"]


def start(command: list[str], seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "SCRIPTED_SECONDS": str(seconds)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for_rows(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if path.exists() and path.stat().st_size:
            return
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError("no rows came")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_batch_and_says_how_to_go_on(
    command: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out.jsonl"
    process = start([*command, "-o", str(out)], 0.05)
    wait_for_rows(out, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert process.returncode == 130
    assert 0 < len(rows) < 100
    assert len(rows) % 4 == 0  # whole windows of two batches
    assert "finishing the current batch; press Ctrl-C again to stop now" in err
    assert re.search(
        rf"interrupted: {len(rows)} answered, .*, {100 - len(rows)} to go; run the same command again to continue\n$",
        err,
    ), err
    rest = start([*command, "-o", str(out)], 0)
    assert rest.communicate(timeout=60)[0] == ""
    assert (rest.returncode, len(out.read_text().splitlines())) == (0, 100)


def test_how_many_are_to_go_counts_those_of_earlier_runs(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out.jsonl"
    for _ in range(2):
        before = out.stat().st_size if out.exists() else 0
        process = start([*command, "-o", str(out)], 0.05)
        while not out.exists() or out.stat().st_size <= before:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        left = 101 - len(out.read_text().splitlines())
        assert 0 < left < 101
        assert f", {left} to go; run the same command again" in err, err


def test_the_second_signal_stops_at_once(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    process = start([*command, "-o", str(out)], 0.5)
    wait_for_rows(out, process)
    before = out.read_bytes()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 1.9  # the window in hand would take two seconds
    assert (process.returncode, "Traceback" in err) == (130, False)
    assert out.read_bytes() == before


def test_what_went_to_a_pipe_is_whole_too(command: list[str]) -> None:
    process = start([*command, "--format=jsonl"], 0.05)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert all(json.loads(line)["error"] is None for line in (first + rest).splitlines())
    assert "with --output FILE the same command would continue" in err


def watch(command: list[str], *, stdout: int = subprocess.DEVNULL) -> str:
    """What a terminal shows on stderr."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "SCRIPTED_SECONDS": "0.005"}
    del environment["NO_COLOR"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=side if stdout == subprocess.PIPE else stdout, stderr=side
    )
    os.close(side)
    shown = b""
    while select.select([main], [], [], 60)[0]:
        try:
            piece = os.read(main, 65536)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    process.wait(30)
    return shown.decode()


def test_progress_is_for_terminals(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "in" / "fail.png").write_bytes(b"broken")
    shown = watch([*command, "-o", str(tmp_path / "out.jsonl")])
    assert re.search(r"\d+/101", shown), shown[-2000:]
    assert re.search(r"[\d.]+/s", shown)
    assert "100 answered, 1 of 101 failed (1 not an image)" in shown
    again = watch([*command, "-o", str(tmp_path / "out.jsonl"), "--existing=overwrite", "--quiet"])
    assert "/101" not in again
    assert "/101" not in watch(command, stdout=subprocess.PIPE)  # the results themselves are watched
    piped = start([*command, "-o", str(tmp_path / "out2.jsonl")], 0)
    assert "/101" not in piped.communicate(timeout=60)[1]
