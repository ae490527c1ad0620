"""Processes of this machine that share a command's work: one is killed, the command itself is killed, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.program import Run
from tests.serve.running import PROGRAM, SAMPLES, wait_for

Command = Callable[..., Run]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    pictures = sorted(SAMPLES.glob("*.png"))
    for number in range(60):
        (tmp_path / "in" / f"{number:02}.png").symlink_to(pictures[number % len(pictures)])
    (tmp_path / "in" / "33.png").unlink()
    (tmp_path / "in" / "33.png").write_bytes(b"no picture")
    return tmp_path / "in"


def list_children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def count_rows(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def untimed(text: str) -> list[dict[str, Any]]:
    """Rows as they do not depend on what had been asked before, nor with what: the last digits of a sum do."""
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        del row["seconds"], row["usage"]["shared_tokens"]
        if row["confidence"] is not None:
            row["confidence"] = {key: one and round(one, 2) for key, one in row["confidence"].items()}
    return rows


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_workers_and_the_command_itself_are_killed_and_every_row_is_there_once(
    run: Command, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    words = ("caption", str(folder), "--model", "shapes", "--batch-size", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*PROGRAM, *words, "--devices", "cpu:2", "-o", str(out)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as program:
        wait_for(lambda: count_rows(out) >= 4)
        workers = list_children(program.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        done = count_rows(out)
        wait_for(lambda: count_rows(out) >= min(done + 8, 50))
        workers = list_children(program.pid)
        program.kill()
        program.wait()
        assert program.stderr is not None
        assert "the worker on cpu 1 went away; others get its requests" in program.stderr.read()
        wait_for(lambda: not any(map(is_running, workers)), seconds=60)
    assert count_rows(out) < 60
    resumed = run(*words, "--devices", "cpu:1", "-o", out)
    assert resumed.code == 1, resumed.stderr
    alone = run(*words, "--format=jsonl")
    assert untimed(out.read_text()) == untimed(alone.stdout)
    assert [json.loads(line)["error"]["code"] for line in out.read_text().splitlines()[33:34]] == [
        "not_an_image"
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "0"), "no GPU is found here; write cpu:2"),
        (("--devices", "all"), "no GPU is found here"),
        (("--devices", "cpu:0"), "is not 1 to 64 processes"),
        (("--devices", "first"), "names no devices"),
        (("--devices", "cpu:2", "--device", "cpu"), "--devices and --device cannot be combined"),
        (
            ("--devices", "cpu:2", "--server", "http://localhost:1"),
            "--devices and --server cannot be combined",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(
    run: Command, red_circle: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no nvidia-smi
    result = run("caption", red_circle, "--model", "shapes", *words)
    assert (result.code, said in result.stderr) == (2, True), result.stderr


def test_a_model_that_cannot_be_loaded_ends_the_run_in_its_own_words(
    run: Command, red_circle: Path, two_images: tuple[Path, Path]
) -> None:
    result = run(
        "caption", red_circle, *two_images, "--model", "shapes", "--dtype", "float16", "--devices", "cpu:1"
    )
    assert result.code == 3
    assert result.stderr.count("\n") == 1, result.stderr
    assert "float16 overflows in idefics" in result.stderr
