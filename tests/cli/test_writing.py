"""Where nobody asked for it nothing is written: folders, names and files from elsewhere, in the real program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")
TEMPLATE = """
name: tags
version: 1
description: d
fields: {}
completion: {turn: [image, "$sidecar"]}
"""


@pytest.fixture
def folder(tmp_path: Path, red_circle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(red_circle.read_bytes())
    monkeypatch.chdir(tmp_path)
    return Path("in")


@pytest.mark.parametrize("existing", [(), ("--existing", "overwrite")])
def test_links_laid_in_a_folder_lead_nowhere(run: Program, folder: Path, existing: tuple[str, ...]) -> None:
    victim = Path("victim")
    victim.write_text("mine")
    for name in (".a.txt.new", ".a.txt.tmp", ".rows.jsonl.new"):
        (folder / name).symlink_to("../victim")
    if existing:
        (folder / "a.txt").symlink_to("../victim")
        (folder / "rows.jsonl").write_text("old")
    command = ("caption", folder, "--sidecar", "txt", "-o", folder / "rows.jsonl", *existing, *MODEL)
    assert run(*command, backend=ScriptedBackend()).code == 0
    assert victim.read_text() == "mine"
    assert (folder / "a.txt").read_text() == "A red circle.\n"
    assert not (folder / "a.txt").is_symlink()


def test_a_name_as_long_as_names_can_be_has_a_sidecar(run: Program, folder: Path) -> None:
    name = "é" * 123 + "abcde"  # 251 bytes, and 255 with its suffix
    os.rename(folder / "a.png", folder / f"{name}.png")
    result = run("caption", folder, "--sidecar", "txt", *MODEL, backend=ScriptedBackend())
    assert result.code == 0, result.stderr
    assert (folder / f"{name}.txt").read_text() == "A red circle.\n"


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "folder"])
def test_what_is_no_file_is_no_sidecar(run: Program, folder: Path, kind: str) -> None:
    """Read for `$sidecar`, a pipe would be waited for without end and a device take all memory."""
    beside = folder / "a.txt"
    if kind == "pipe":
        os.mkfifo(beside)
    elif kind == "device":
        beside.symlink_to("/dev/zero")
    elif kind == "folder":
        beside.mkdir()
    else:
        beside.write_bytes(b"x" * 1_000_001)
    Path("tags.yaml").write_text(TEMPLATE)
    result = run("run", "./tags.yaml", folder, *MODEL, backend=ScriptedBackend())
    assert (result.code, len(result.stderr.splitlines())) == (1, 1), result.stderr
    reason = {
        "pipe": "a named pipe",
        "device": "a device",
        "folder": "a folder",
        "large": "more than 1,000,000",
    }
    assert "in/a.txt cannot be read: it" in result.stderr
    assert reason[kind] in result.stderr
