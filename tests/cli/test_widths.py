"""Narrow and wide terminals: no line is longer than the screen, and no word is broken where it would have had room."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.cli.width import fit_table, fold
from tests.program import Run
from tests.scripted import ScriptedBackend
from tests.scripted_program import COMMAND
from tests.terminal import Shown, show

Program = Callable[..., Run]
WIDTHS = (40, 80, 120)
PROGRAM = [sys.executable, "-m", "idefics_cli"]
MODEL = ("--model", "idefics-9b")


def list_words(text: str, columns: int) -> set[str]:
    """The words of a text that would have room on a line, without those that differ from run to run."""
    words = (word.strip(",;.()") for word in text.split())
    return {word for word in words if not re.search(r"\d", word) and len(word) < columns - 2}


def check(shown: Shown, piped: Run, columns: int, *, less: str = "") -> None:
    """What is on the screen are the words that a pipe gets, but for a heading that a pile does without."""
    assert piped.code == shown.code
    whole = list_words(piped.stdout + piped.stderr, columns) - {less}
    assert whole
    assert whole <= list_words("\n".join(shown.lines), columns)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        PIL.Image.new("RGB", (8, 8), "red").save(folder / f"{number:03}.png")
    for number in range(8):
        (folder / f"holiday-in-the-mountains-{number}.jpg").write_text("no image")
    for number in range(5):
        PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / f"clear-{number}.png")
    (folder / "film.mp4").write_text("film")
    return folder


@pytest.mark.parametrize("columns", WIDTHS)
def test_progress_stays_on_its_line_and_failures_are_whole(
    run: Program, photos: Path, tmp_path: Path, columns: int
) -> None:
    out = str(tmp_path / "rows.jsonl")
    words = ("caption", str(photos), *MODEL, "--batch-size=4", "--existing=overwrite", "-o", out)
    shown = show([*COMMAND, *words], columns, SCRIPTED_SECONDS="0.02")
    lines = [[line for line in moment if "/73" in line] for moment in shown.moments]
    assert any(lines), shown.lines
    assert all(len(found) <= 1 for found in lines), "a line of progress is drawn over itself"
    seen = [found[0] for found in lines if found]
    assert any(re.search(r"\d+/73 .*\d/s", line) for line in seen), seen[-5:]
    assert all(("━" in line) == (columns >= 60) for line in seen)
    assert not [line for line in shown.lines if "/73" in line], "it is gone in the end"
    check(shown, run(*words, backend=ScriptedBackend()), columns)


@pytest.mark.parametrize("columns", WIDTHS)
def test_tables_fit(run: Program, columns: int) -> None:
    shown = show([*PROGRAM, "models", "list"], columns)
    check(shown, run("models", "list"), columns, less="NAME")
    assert ("NAME" in shown.lines[0]) == (columns == 120)
    assert ("  WEIGHTS   8.46 B" in shown.lines) == (columns < 120), shown.lines[:8]


@pytest.mark.parametrize("words", [("models", "info", "smolvlm"), ("templates", "list")], ids=" ".join)
def test_other_tables_fit_the_narrowest(run: Program, words: tuple[str, ...]) -> None:
    check(show([*PROGRAM, *words], 40), run(*words), 40, less="PRECISION")


def test_a_table_of_scores_fits(run: Program, tmp_path: Path) -> None:
    rows, truth = tmp_path / "rows.jsonl", tmp_path / "truth.jsonl"
    answers = [("one.png", "circle"), ("two.png", "star"), ("three.png", "circle")]
    lines: list[dict[str, object]] = [
        {"id": name, "images": [name], "task": "classify", "text": label, "label": label, "model": "m"}
        for name, label in answers
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    truth.write_text("".join(f'{{"image": "{name}", "label": "circle"}}\n' for name, _ in answers))
    words = ("eval", str(rows), "--references", str(truth), "--worst", "2")
    check(show([*PROGRAM, *words], 40), run(*words), 40, less="METRIC")


@pytest.mark.parametrize("columns", WIDTHS)
def test_errors_are_broken_between_words(run: Program, columns: int) -> None:
    for words in (("caption", "nowhere/*.jpg"), ("vqa", "a.png", "-q", "Is it?", "--model", "idefics-10b")):
        check(show([*PROGRAM, *words], columns), run(*words), columns)


def test_a_line_is_broken_below_its_last_column() -> None:
    assert fold("short", 10) == "short"
    assert fold("to be or not to be, that is", 12) == "to be or not\n  to be,\n  that is"
    assert fold("/image FILE  shows another image", 33) == "/image FILE  shows another image"
    assert fold("/img F  shows quite another image", 28) == "/img F  shows quite another\n        image"
    assert fold("write `idefics models pull NAME` first", 24) == "write\n  `idefics models pull NAME`\n  first"
    assert fold("日本語 日本語 日本語", 14) == "日本語 日本語\n  日本語"
    assert fold("no terminal at all", None) == "no terminal at all"


def test_a_table_without_room_is_piled_up() -> None:
    rows = [("NAME", "SIZE", "LICENCE"), ("one", "1 GB", "free"), ("second", "", "of its own kind")]
    assert fit_table(rows, None, has_head=True) == fit_table(rows, 80, has_head=True)
    assert fit_table(rows, 20, has_head=True) == [
        *("one", "  SIZE     1 GB", "  LICENCE  free"),
        *("second", "  LICENCE  of its", "  own kind"),
    ]
