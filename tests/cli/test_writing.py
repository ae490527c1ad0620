"""Where nobody asked for it nothing is written: folders, names and files from elsewhere, in the real program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import Run
from tests.scripted import ScriptedBackend
from tests.scripted_program import ROOT

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


@pytest.mark.parametrize("existing", [(), ("--existing", "overwrite", "--overwrite-foreign")])
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
    skipped, *told = result.stderr.splitlines()
    assert (result.code, skipped.startswith("idefics: skipped "), len(told)) == (1, True, 1), result.stderr
    reason = {
        "pipe": "a named pipe",
        "device": "a device",
        "folder": "a folder",
        "large": "more than 1,000,000",
    }
    assert "in/a.txt cannot be read: it" in result.stderr
    assert reason[kind] in result.stderr


def test_the_output_is_no_part_of_the_input(run: Program, folder: Path) -> None:
    """Also where it is to be replaced, and under whatever name."""
    Path("list.txt").write_text("in/a.png\n")
    Path("items.jsonl").write_text('{"task": "caption", "image": "in/a.png"}\n')
    Path("shots.yaml").write_text("- {image: in/a.png, answer: x}\n")
    os.link(folder / "a.png", "picture")
    Path("link").symlink_to("list.txt")
    Path("names.txt").write_text("in/a.png\npicture\n")
    os.link("picture", "other")
    commands: list[tuple[str, ...]] = [
        ("caption", "--files-from", "list.txt", "-o", "list.txt"),
        ("caption", "--files-from", "list.txt", "-o", "link"),
        ("batch", "items.jsonl", "-o", "items.jsonl"),
        ("caption", "in/a.png", "--examples", "shots.yaml", "-o", "shots.yaml"),
        ("caption", "in", "-o", "in/a.png"),
        ("caption", "in", "-o", "new.png"),
        ("caption", "picture", "-o", "picture"),
        ("caption", "--files-from", "names.txt", "-o", "other"),
    ]
    before = {path: path.read_bytes() for path in (*Path().glob("*"), *folder.glob("*")) if path.is_file()}
    for command in commands:
        for existing in ((), ("--existing", "overwrite"), ("--format", "text", "--existing", "overwrite")):
            if command[0] == "batch" and "text" in existing:
                continue
            result = run(*command, *existing, *MODEL, backend=ScriptedBackend())
            assert (result.code, len(result.stderr.splitlines())) == (2, 1), (command, result.stderr)
    after = {path: path.read_bytes() for path in (*Path().glob("*"), *folder.glob("*")) if path.is_file()}
    assert before == after


@pytest.mark.parametrize("command", [
    ("caption", "in", "-o", "ODD"),
    ("caption", "in", "-o", "ODD", "--format", "text", "--existing", "overwrite"),
    ("caption", "in", "--examples", "ODD"),
    ("caption", "in", "--template", "ODD"),
    ("classify", "in", "--labels", "@ODD"),
    ("chat", "--load", "ODD"),
    ("caption", "in", "--files-from", "/dev/zero"),
    ("batch", "/dev/zero"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["pipe", "device", "full"])
def test_pipes_and_devices_are_refused_by_name(run: Program, folder: Path, command: tuple[str, ...], kind: str) -> None:
    os.mkfifo("pipe.yaml")
    name = {"pipe": "./pipe.yaml", "device": "/dev/zero", "full": "/dev/full"}[kind]
    words = [word.replace("ODD", name) for word in command]
    result = run(*words, *MODEL, backend=ScriptedBackend())
    assert (result.code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert result.stderr.count("a named pipe") + result.stderr.count("a device") == 1


def test_settings_that_are_no_file_are_refused_by_name(run: Program, folder: Path) -> None:
    config = Path(os.environ["IDEFICS_CONFIG_DIR"])
    config.mkdir(parents=True)
    for name in ("config.yaml", "models.yaml"):
        os.mkfifo(config / name)
        result = run("caption", folder, *MODEL, backend=ScriptedBackend())
        assert (result.code, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert "a named pipe" in result.stderr
        (config / name).unlink()


def test_results_still_go_to_what_the_shell_opened(run: Program, folder: Path) -> None:
    here, there = os.pipe()
    for format in ("text", "jsonl"):
        result = run("caption", folder, "-o", f"/dev/fd/{there}", "--format", format, *MODEL, backend=ScriptedBackend())
        assert result.code == 0, result.stderr
        assert b"A red circle." in os.read(here, 10_000)
    os.close(there)
    os.close(here)


FULL = """
import resource, signal, sys
from tests.scripted import ScriptedBackend
from tests.scripted_program import ROOT
from idefics_cli.cli.app import execute
from idefics_cli.cli.ask import open_with
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))
open_with.set(ScriptedBackend().open)
sys.exit(execute(sys.argv[1:]))
"""


def test_a_text_file_that_cannot_grow_is_one_line(folder: Path, red_circle: Path) -> None:
    """A limit on the size of files is met as a full disk is."""
    for number in range(9):
        (folder / f"{number}.png").write_bytes(red_circle.read_bytes())
    words = ["caption", "in", "-o", "out.txt", "--format", "text", *MODEL]
    result = subprocess.run(
        [sys.executable, "-c", FULL, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "cannot write to out.txt: File too large" in result.stderr
    assert Path("out.txt").read_text().endswith("A red circle.\n")


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_an_index_of_texts_that_is_no_file_is_one_line(run: Program, folder: Path, kind: str) -> None:
    index = folder / ".idefics-sidecars.jsonl"
    if kind == "pipe":
        os.mkfifo(index)
    else:
        Path("victim").write_text("mine")
        index.symlink_to("../victim")
    result = run("caption", folder, "--sidecar", "txt", *MODEL, backend=ScriptedBackend())
    assert (result.code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert kind == "pipe" or Path("victim").read_text() == "mine"
