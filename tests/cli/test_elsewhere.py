"""Where people put it: without a home, an entry in passwd, a folder for temporary files, or anything to write to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.scripted_program import COMMAND, ROOT

NOBODY = [
    "unshare",
    "--user",
    "--map-user=12345",
    "env",
    "-i",
    "PYTHONDONTWRITEBYTECODE=1",
    "OMP_NUM_THREADS=1",
]
READ_ONLY = 'mount -o remount,bind,ro / && mount -t tmpfs -o ro none /dev/shm && exec "$@"'
PROGRAM = [sys.executable, "-m", "idefics_cli"]
SAMPLE = ROOT / "idefics_cli" / "shapes" / "samples" / "red-circle.png"
SHAPES = ("--model", "shapes")


def run_elsewhere(
    program: list[str],
    *words: str | Path,
    is_read_only: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """A program as a user without an entry in passwd and without HOME, whom root does not help."""
    given = [f"{name}={value}" for name, value in environment.items()]
    command = [*NOBODY, *given, *program, *map(str, words)]
    if is_read_only:
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this system lets nobody be another user")
    return done


@pytest.mark.parametrize(
    "environment", [{}, {"HOME": "/nowhere"}, {"TMPDIR": "/nowhere"}, {"XDG_CACHE_HOME": "/nowhere"}]
)
def test_without_a_home_it_works(environment: dict[str, str]) -> None:
    done = run_elsewhere(COMMAND, "caption", SAMPLE, *SHAPES, environment=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is red-circle.png.\n", "")


def test_a_read_only_file_system_is_enough_for_an_answer() -> None:
    done = run_elsewhere(PROGRAM, "caption", SAMPLE, *SHAPES, is_read_only=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "A red circle on a white background.\n", "")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("-o", "/tmp/rows.jsonl"), 2, "cannot write /tmp/rows.jsonl: Read-only file system"),
        (("--sidecar", ".txt"), 2, "red-circle.txt: Read-only file system"),
        (("--no-server",), 0, ""),
    ],
)
def test_what_cannot_be_written_is_one_line(words: tuple[str, ...], code: int, told: str) -> None:
    done = run_elsewhere(COMMAND, "caption", SAMPLE, *SHAPES, *words, is_read_only=True)
    assert done.returncode == code
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == (code > 0)


def test_a_server_without_a_place_names_the_variable() -> None:
    done = run_elsewhere(PROGRAM, "serve", *SHAPES, is_read_only=True)
    assert done.returncode == 2
    assert (len(done.stderr.splitlines()), "set IDEFICS_RUNTIME_DIR" in done.stderr) == (1, True)


@pytest.mark.parametrize("locked", [".", "config.yaml", "models.yaml", "templates"])
def test_settings_that_may_not_be_read_name_the_variable(tmp_path: Path, locked: str) -> None:
    folder = tmp_path / "settings"
    (folder / "templates").mkdir(parents=True)
    (folder / "config.yaml").write_text("format: text\n")
    (folder / "models.yaml").write_text("mine: {repo: a/b, architecture: idefics2}\n")
    (folder / locked).chmod(0)
    try:
        done = run_elsewhere(PROGRAM, "caption", SAMPLE, *SHAPES, environment={"IDEFICS_CONFIG_DIR": str(folder)})
    finally:
        (folder / locked).chmod(0o700)
    assert (done.returncode, done.stdout) == (2, "")
    assert (len(done.stderr.splitlines()), "check IDEFICS_CONFIG_DIR" in done.stderr) == (1, True), done.stderr


def test_settings_that_are_no_file_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    done = run_elsewhere(COMMAND, "caption", SAMPLE, *SHAPES, environment={"IDEFICS_CONFIG_DIR": str(tmp_path)})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
