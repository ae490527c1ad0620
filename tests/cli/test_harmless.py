"""What an image, a name, a template or a checkpoint says never gives a terminal orders, whatever the format."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.cli.output import emit, say
from idefics_cli.jsonl import dump_row, parse_line
from idefics_cli.prompts.tasks import check_labels, match_label
from tests.program import Run, run_program
from tests.rivals import count_rivals
from tests.scripted import ScriptedBackend

EVIL = "\x1b]0;x\x07 a\x9b2J\u202ered\u2066 \rb\x7f"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MODEL = ("--model", "shapes")


def check(run: Run) -> None:
    assert not OBEYED.search(run.stdout), run.stdout
    assert not OBEYED.search(run.stderr), run.stderr


@pytest.fixture
def evil(tmp_path: Path, red_circle: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"a{EVIL}.png").write_bytes(red_circle.read_bytes())
    (folder / f"b{EVIL}.png").write_bytes(b"none")
    return folder


@pytest.mark.parametrize(
    "extra",
    [(), ("--format", "jsonl"), ("--verbose",), ("--dry-run",), ("--dry-run", "--format", "jsonl")],
    ids=str,
)
def test_neither_names_nor_answers_reach_it(evil: Path, extra: tuple[str, ...]) -> None:
    backend = None if "--dry-run" in extra else ScriptedBackend(f" said {EVIL}")
    run = run_program("vqa", evil, "-q", f"What{EVIL}?", *extra, *MODEL, backend=backend)
    check(run)
    assert run.code == 1
    assert extra or run.stderr.count(".png") == 1, "an error names its source once"
    if extra == ("--format", "jsonl"):
        row = json.loads(run.stdout.splitlines()[0])
        assert (row["text"], row["fields"]["question"]) == (f"said {EVIL}", f"What{EVIL}?"), "rows have it whole"


def test_a_file_of_rows_keeps_it_escaped(evil: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    check(run_program("caption", evil, "-o", out, *MODEL, backend=ScriptedBackend(f" said {EVIL}")))
    told = out.read_text("utf-8")
    assert not OBEYED.search(told)
    assert json.loads(told.splitlines()[0])["text"] == f"said {EVIL}"


@pytest.mark.parametrize("code", [0x1B, 0x7F, 0x85, 0x9B, 0x2028, 0x202E, 0x2069])
def test_a_row_comes_back_as_it_was(code: int) -> None:
    line = dump_row({"a": chr(code)})
    assert chr(code) not in line
    assert parse_line(line) == {"a": chr(code)}


def test_templates_and_errors_do_not_either(evil: Path) -> None:
    folder = Path(os.environ["IDEFICS_CONFIG_DIR"]) / "templates"
    folder.mkdir(parents=True)
    body = {"name": "evil", "version": 1, "description": EVIL, "chat": {"turn": ["image", f"x{EVIL}"]}}
    (folder / "evil.yaml").write_text(json.dumps(body))
    for words in (
        ("templates", "list"),
        ("templates", "show", "evil"),
        ("templates", "check", evil / f"{EVIL}.yaml"),
        ("caption", evil / EVIL, "--model", f"./no{EVIL}"),
        ("caption", evil, "--background", EVIL),
        ("run", f"none{EVIL}", evil),
        ("run", "evil", evil, "--set", EVIL),
        (f"cap{EVIL}tion",),
        ("caption", evil, f"--no{EVIL}"),
        ("chat", "--model", f"{EVIL}/x", "--offline"),
        ("models", "info", f"{EVIL}"),
    ):
        run = run_program(*words)
        check(run)
        assert run.stdout or run.stderr


def test_bytes_of_a_name_do_not_become_one_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """0x9B begins an order where a terminal is not of UTF-8, and where what stands between two bytes is dropped."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    name = os.fsdecode(b"a\xc2\x1b\x9b2J\x9b")
    for stream, write in (("stdout", emit), ("stderr", say)):
        shown = io.BytesIO()
        monkeypatch.setattr(sys, stream, Terminal(shown, "utf-8", "surrogateescape"))
        write(name)
        assert b"\x9b" not in shown.getvalue()


def test_a_warning_that_repeats_is_said_three_times_then_counted(tmp_path: Path) -> None:
    for number in range(20):
        PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / f"{number:02}.png")
    gif = [PIL.Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(9)]
    gif[0].save(tmp_path / "x.gif", save_all=True, append_images=gif[1:])
    run = run_program("caption", tmp_path, "--format", "jsonl", *MODEL, backend=ScriptedBackend())
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert all(row["warnings"] for row in rows)
    said = [line for line in run.stderr.splitlines() if "transparent" in line]
    assert len(said) == 4, run.stderr
    assert "only counted" in said[2]
    assert "transparent areas were put on white: 20" in said[3]
    assert len(run.stderr.splitlines()) < 16


def test_libraries_write_nothing_by_themselves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = PIL.Image.effect_noise((64, 64), 50)
    for kind in ("tiff_lzw", "tiff_adobe_deflate", "group4"):
        written = io.BytesIO()
        noise.convert("1").save(written, "TIFF", compression=kind)
        data = bytearray(written.getvalue())
        for place in range(20, len(data) - 200, 37):
            data[place] ^= 0x5A
        (tmp_path / f"{kind}.tif").write_bytes(data)
    run = run_program("caption", tmp_path, *MODEL, backend=ScriptedBackend())
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")
    assert all(line.startswith("idefics: ") for line in run.stderr.splitlines())


def test_labels_are_compared_once_and_without_regard_to_how_accents_are_spelled() -> None:
    labels = [f"label {number}" for number in range(20_000)]
    began = time.perf_counter()
    with pytest.raises(Exception, match="'label 7' is given twice"):
        check_labels([*labels, "label 7"])
    assert time.perf_counter() - began < 2 * count_rivals()
    with pytest.raises(Exception, match="accents encoded in two ways"):
        check_labels(["caf\u00e9", "tea", "cafe\u0301"])
    assert match_label("Cafe\u0301.", ["tea", "caf\u00e9"]) == "caf\u00e9"
