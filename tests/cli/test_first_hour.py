"""What somebody meets in the first hour: what is skipped, what failed, what is meant, where things are run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.errors import AnswerError
from idefics_cli.values import Request
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, nine files that are no images, and what is skipped."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a", "b", "c", "more/d"):
        PIL.Image.new("RGB", (8, 8), "red").save(folder / f"{name}.png")
    for number in range(9):
        (folder / f"x{number}.jpg").write_text("no image")
    for name in ("one.CR2", "two.CR2", "film.mp4", ".hidden.txt"):
        (folder / name).write_text("raw")
    return folder


def test_failures_are_named_then_counted_and_the_file_lists_them(
    run: Program, photos: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    first = run("caption", photos, *MODEL, "-o", rows, backend=ScriptedBackend())
    assert first.code == 1
    assert first.stderr.count("error:") == 5
    assert "3 answered, 9 of 12 failed (not an image 9)" in first.stderr
    assert len(first.stderr.splitlines()) <= 12
    assert f"jq -r 'select(.error) | [.id, .error.message] | @tsv' {rows} lists" in first.stderr
    again = run("caption", photos, *MODEL, "-o", rows, backend=ScriptedBackend())
    assert again.code == 1
    assert "3 done before, 9 failed before (not an image 9; --existing retry-errors tries" in again.stderr


def test_failures_are_named_whatever_the_format(run: Program, photos: Path) -> None:
    for more in ((), ("--format", "jsonl")):
        result = run("caption", photos / "a.png", photos / "x1.jpg", *MODEL, *more, backend=ScriptedBackend())
        assert result.stderr.count("x1.jpg is text, not an image") == 1, result.stderr


def test_verbose_names_every_failure(run: Program, photos: Path) -> None:
    result = run("caption", photos, *MODEL, "--verbose", backend=ScriptedBackend())
    assert result.stderr.count("error:") == 9


def test_failures_that_are_accepted_end_well_the_next_time(
    run: Program, photos: Path, tmp_path: Path
) -> None:
    words = ("caption", photos, *MODEL, "-o", tmp_path / "rows.jsonl", "--existing", "accept-errors")
    assert run(*words, backend=ScriptedBackend()).code == 1
    again = run(*words, backend=ScriptedBackend())
    assert again.code == 0
    assert "9 failed before (not an image 9; accepted)" in again.stderr


def test_a_photo_is_one_item_however_it_is_spelled(
    run: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    rows = tmp_path / "rows.jsonl"
    for name in ("photos/a.png", "./photos/a.png", "photos//a.png", str(photos / "a.png")):
        result = run("caption", name, *MODEL, "-o", rows, backend=ScriptedBackend())
        assert result.code == 0, result.stderr
    assert len(rows.read_text().splitlines()) == 1
    other = tmp_path / "absolute.jsonl"
    for name in (str(photos / "a.png"), "photos/a.png"):
        run("caption", name, *MODEL, "-o", other, backend=ScriptedBackend())
    assert len(other.read_text().splitlines()) == 1


def test_a_failed_photo_is_tried_again_under_another_spelling(
    run: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    rows = tmp_path / "rows.jsonl"

    def fail(request: Request) -> AnswerError:
        return AnswerError("no memory", code="out_of_memory")

    run("caption", "a.png", *MODEL, "-o", rows, backend=ScriptedBackend(fail))
    words = (*MODEL, "-o", rows, "--existing", "retry-errors")
    assert run("caption", photos / "a.png", *words, backend=ScriptedBackend()).code == 0
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert row["error"] is None


def test_labels_are_a_list_in_a_row(run: Program, photos: Path) -> None:
    words = ("classify", photos / "a.png", *MODEL, "--labels", "cat,dog", "--format", "jsonl")
    assert json.loads(run(*words, backend=ScriptedBackend()).stdout)["fields"] == {"labels": ["cat", "dog"]}
