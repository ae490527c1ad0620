"""A torch that is there and cannot be imported, as after a broken upgrade: one line, whoever needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idefics_cli.config import PACKAGE

IMAGE = str(PACKAGE / "shapes" / "samples" / "red-circle.png")
REASON = "torch cannot be imported (libcudart.so.12: cannot open shared object file)"
LINE = f"idefics: error: {REASON}; install it again\n"

COMMANDS = {
    "caption": ("caption", IMAGE, "--model", "shapes"),
    "preview": ("caption", IMAGE, "--model", "shapes", "--dry-run"),
    "chat": ("chat", IMAGE, "--model", "shapes"),
    "serve": ("serve", "--model", "shapes"),
    "bench": ("bench",),
}


@pytest.fixture(params=["ImportError", "OSError"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a program that finds such a torch first."""
    folder = tmp_path / "torch"
    folder.mkdir()
    failure = f"raise {request.param}('libcudart.so.12: cannot open shared object file\\nand more')"
    (folder / "__init__.py").write_text(failure)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "idefics_cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_what_needs_it_says_so(broken: dict[str, str], words: tuple[str, ...]) -> None:
    done = run(broken, *words)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", LINE)


def test_doctor_looks_at_everything_else(broken: dict[str, str]) -> None:
    done = run(broken, "doctor", "--offline")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert f"broken   devices          {REASON}; install it again" in lines
    assert [line.split()[1] for line in lines if line.startswith("broken")] == ["devices"]
    assert {"versions", "caches", "disk", "settings", "token"} <= {line.split()[1] for line in lines}
