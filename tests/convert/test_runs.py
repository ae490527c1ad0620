"""Runs whose results are a table: made of rows that are kept, so that a run can be resumed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest

from tests.program import Run
from tests.review.rows import read_rows
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def read_ids(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return [Path(row["id"]).name for row in csv.DictReader(stream)]


def test_a_csv_is_made_when_a_run_ends_and_a_run_goes_on_from_its_rows(
    run: Program, pictures: Path, tmp_path: Path
) -> None:
    table = tmp_path / "out.csv"
    command = ("caption", pictures, "--format", "csv", "-o", table, *MODEL)
    first = run(*command, backend=ScriptedBackend())
    assert (first.code, first.stdout) == (0, ""), first.stderr
    assert f"3 rows in {table}\n" in first.stderr
    assert read_ids(table) == ["0.png", "1.png", "2.png"]
    assert len(read_rows(tmp_path / "out.csv.jsonl")) == 3
    (pictures / "3.png").write_bytes((pictures / "0.png").read_bytes())
    backend = ScriptedBackend()
    assert run(*command, backend=backend).code == 0
    assert [Path(request.id).name for request in backend.requests] == ["3.png"]
    assert read_ids(table) == ["0.png", "1.png", "2.png", "3.png"]
    table.unlink()
    assert run(*command, backend=ScriptedBackend()).code == 0
    assert len(read_ids(table)) == 4


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_an_output_is_what_its_suffix_says(run: Program, pictures: Path, tmp_path: Path, name: str) -> None:
    table = tmp_path / name
    done = run("caption", pictures / "0.png", "-o", table, *MODEL, backend=ScriptedBackend())
    assert (done.code, f"1 row in {table}\n" in done.stderr) == (0, True), done.stderr
    ids = read_ids(table) if name.endswith("csv") else pq.read_table(table)["id"].to_pylist()
    assert [Path(id).name for id in ids] == ["0.png"]
    assert len(read_rows(tmp_path / f"{name}.jsonl")) == 1


def test_failed_items_have_a_line_and_the_exit_code_says_so(run: Program, pictures: Path, tmp_path: Path) -> None:
    (pictures / "1.png").write_text("no image")
    table = tmp_path / "out.parquet"
    command = ("caption", pictures, "--format", "parquet", "-o", table, *MODEL)
    assert run(*command, backend=ScriptedBackend()).code == 1
    assert pq.read_table(table)["error.code"].to_pylist() == [None, "not_an_image", None]
    PIL.Image.new("RGB", (8, 8)).save(pictures / "1.png")
    assert run(*command, "--existing", "retry-errors", backend=ScriptedBackend()).code == 0
    assert pq.read_table(table)["error"].to_pylist() == [None, None, None]


def test_an_image_folder_has_what_was_answered(run: Program, pictures: Path, tmp_path: Path) -> None:
    (pictures / "1.png").write_text("no image")
    folder = tmp_path / "train"
    result = run("caption", pictures, "--format", "imagefolder", "-o", folder, *MODEL, backend=ScriptedBackend())
    assert result.code == 1
    assert f"2 rows in {folder}, 1 left out" in result.stderr
    lines = read_rows(folder / "metadata.jsonl")
    assert [line["file_name"] for line in lines] == ["images/0000001-0.png", "images/0000002-2.png"]
    assert (folder / lines[1]["file_name"]).read_bytes() == (pictures / "2.png").read_bytes()


def test_a_run_that_stopped_leaves_no_table(run: Program, pictures: Path, tmp_path: Path) -> None:
    (pictures / "0.png").write_text("no image")
    table = tmp_path / "out.csv"
    command = ("caption", pictures, "--format", "csv", "-o", table, *MODEL)
    stopped = run(*command, "--fail-fast", backend=ScriptedBackend())
    assert stopped.code == 1
    assert not table.exists()
    assert f"{table} is written when all items are answered; the rows so far are in {table}.jsonl" in stopped.stderr
    assert run(*command, "--existing", "accept-errors", backend=ScriptedBackend()).code == 0
    assert read_ids(table) == ["0.png", "1.png", "2.png"]


def test_what_could_not_be_made_is_told_before_a_model_is_loaded(run: Program, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("mine")
    for arguments, words in [
        (("--format", "csv"), "name a file with --output"),
        (("--format", "csv", "-o", "/dev/stdout"), "name a file with --output"),
        (("--format", "csv", "-o", tmp_path / "mine.csv"), "mine.csv exists"),
        (("--format", "imagefolder", "-o", "."), "is not a file name"),
        (("--format", "csv", "-o", tmp_path / "no" / "t.csv"), "there is no folder"),
        (("--format", "imagefolder", "-o", pictures), "is read by the same command"),
    ]:
        backend = ScriptedBackend()
        result = run("caption", pictures, *arguments, *MODEL, backend=backend)
        assert (result.code, result.stderr.count("\n"), backend.requests) == (2, 1, []), arguments
        assert words in result.stderr
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert run("models", "list", "--format", "csv").code == 2


def test_several_tables_are_made_of_the_rows_of_one_run(run: Program, pictures: Path, tmp_path: Path) -> None:
    rows, table, folder = tmp_path / "rows.jsonl", tmp_path / "t.csv", tmp_path / "train"
    command = ("caption", pictures, "-o", rows, "--also", table, "--also", f"{folder}/", *MODEL)
    assert run(*command, backend=ScriptedBackend()).code == 0
    assert (len(read_rows(rows)), len(read_ids(table)), len(list((folder / "images").iterdir()))) == (3, 3, 3)
    backend = ScriptedBackend()
    assert run(*command, backend=backend).code == 0
    assert backend.requests == []
    for arguments in (("--also", table), ("-o", rows, "--also", "t.xlsx"), ("-o", rows, "--also", tmp_path)):
        backend = ScriptedBackend()
        result = run("caption", pictures, *arguments, *MODEL, backend=backend)
        assert (result.code, result.stderr.count("\n"), backend.requests) == (2, 1, []), result.stderr
