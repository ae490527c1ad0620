"""A failure that nobody foresaw, as who is at the shell sees it: a row, a line, an exit code, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idefics_cli import __version__
from idefics_cli.values import Request
from tests.program import run_program
from tests.scripted import ScriptedBackend

TRACE = "Traceback (most recent call last)"


def reply(request: Request) -> str:
    if "b.png" in request.images[0]:
        raise KeyError("pixel_values")
    return " fine"


@pytest.mark.parametrize("extra", [(), ("--verbose",)], ids=str)
def test_it_is_a_row_and_a_line_to_report(two_images: tuple[Path, Path], extra: tuple[str, ...]) -> None:
    backend = ScriptedBackend(reply)
    run = run_program(
        "caption",
        *two_images,
        two_images[0],
        "--model",
        "shapes",
        "--format",
        "jsonl",
        *extra,
        backend=backend,
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "internal", None]
    assert run.code == 1
    told = rows[1]["error"]["message"]
    assert told.startswith("unexpected KeyError at tests/cli/test_boundary.py:")
    (line,) = [line for line in run.stderr.splitlines() if "please report" in line]
    assert line.endswith(told)
    assert f"idefics {__version__}" in line
    assert (TRACE in run.stderr) is bool(extra)
    assert all(line.startswith("idefics: ") for line in run.stderr.splitlines())


def test_a_conversation_goes_on() -> None:
    asked = []

    def say(request: Request) -> str:
        asked.append(request)
        if len(asked) == 1:
            raise RuntimeError("no")
        return "Yes."

    run = run_program("chat", "--model", "shapes", backend=ScriptedBackend(say), stdin=b"One?\nTwo?\n")
    assert (run.code, run.stdout) == (1, "\nYes.\n")
    assert "unexpected RuntimeError" in run.stderr
    assert "please report" in run.stderr
    assert TRACE not in run.stderr


def test_the_program_itself_ends_with_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of all items: where the list of images is made."""
    monkeypatch.setattr("glob.glob", lambda *given: 1 // 0)
    run = run_program("caption", tmp_path / "*.png", backend=ScriptedBackend())
    assert run.code == 1
    assert "error: unexpected ZeroDivisionError at" in run.stderr
    assert "please report" in run.stderr
    assert TRACE not in run.stderr
    verbose = run_program("caption", tmp_path / "*.png", "--verbose", backend=ScriptedBackend())
    assert TRACE in verbose.stderr
