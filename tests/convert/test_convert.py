"""Rows in other forms, read back by other programs: the csv module, pandas, pyarrow."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import PIL.Image
import pyarrow.parquet as pq
import pytest

from tests.program import Run
from tests.review.rows import make_failed, make_ranked, make_row, read_rows, write_rows

Program = Callable[..., Run]
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1"]
ROWS = [
    make_row(0, text='a "red", car\non two lines', data={"colour": "rot", "size": {"w": 2, "h": 1.5}}),
    make_row(1, text="größer ✓", data={"colour": None, "tags": ["a", "b"]}, fields={"question": "which?"}),
    make_ranked(2, "cat", 0.9),
    make_failed(3),
]


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_is_read_by_the_csv_module_and_by_pandas(run: Program, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    result = run("convert", rows, "--to", "csv")
    assert (result.code, result.stdout) == (0, ""), result.stderr
    assert result.stderr == f"idefics: 4 rows in {tmp_path / 'rows.csv'}\n"
    found = read_csv(tmp_path / "rows.csv")
    assert [row["text"] for row in found] == [ROWS[0]["text"], "größer ✓", "cat", ""]
    assert found[0]["images"] == "0.png"
    assert (found[0]["data.size.w"], found[0]["data.colour"], found[1]["data.tags"]) == (
        "2",
        "rot",
        '["a", "b"]',
    )
    assert (found[2]["scores.cat"], found[3]["error.code"]) == ("0.9", "not_found")
    assert found[1]["fields.question"] == "which?"
    assert "data" not in found[0]
    frame = pd.read_csv(tmp_path / "rows.csv")
    assert frame["scores.cat"].tolist()[2] == 0.9
    assert frame["id"].tolist() == ["0.png", "1.png", "2.png", "3.png"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_runs_no_cell(run: Program, tmp_path: Path, text: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [make_row(0, text=text, data={text: text})])
    assert run("convert", rows, "--to", "csv").code == 0
    with open(tmp_path / "rows.csv", encoding="utf-8-sig", newline="") as stream:
        cells = [cell for line in csv.reader(stream) for cell in line]
    assert f"'{text}" in cells
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\uff1d")]


def test_numbers_stay_numbers_and_nul_is_shown(run: Program, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [make_row(0, text="-5", data=-1.5), make_row(1, text="a\0b")])
    assert run("convert", rows, "--to", "csv", "--columns", "text,data").code == 0
    assert (
        tmp_path / "rows.csv"
    ).read_bytes() == "\ufefftext,data\r\n-5,-1.5\r\na\N{REPLACEMENT CHARACTER}b,\r\n".encode()


def test_parquet_has_types(run: Program, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*ROWS, make_row(4, data={"colour": 7}, big=2**70)])
    assert run("convert", rows, "--to", "parquet").code == 0
    table = pq.read_table(tmp_path / "rows.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["data.size.w"] == "int64"
    assert kinds["data.size.h"] == kinds["seconds"] == kinds["scores.cat"] == "double"
    assert kinds["images"] == kinds["warnings"] == "list<element: string>"
    assert kinds["data.colour"] == kinds["text"] == kinds["big"] == "string"
    assert table["data.colour"].to_pylist() == ["rot", None, None, None, "7"]
    assert table["big"].to_pylist()[4] == str(2**70)
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    assert frame["text"].tolist()[:2] == [ROWS[0]["text"], "größer ✓"]
    assert [list(names) for names in frame["images"]] == [[f"{number}.png"] for number in range(5)]


def test_columns_are_chosen_in_order(run: Program, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    flat = tmp_path / "flat.jsonl"
    assert run("convert", rows, "--to", "jsonl", "--columns", "data.size,id", "-o", flat).code == 0
    assert read_rows(flat)[0] == {"data.size.w": 2, "data.size.h": 1.5, "id": "0.png"}
    result = run("convert", rows, "--to", "csv", "--columns", "id,colour")
    assert result.code == 2
    assert "the rows have no column 'colour'; known: id, images, task" in result.stderr
    assert not (tmp_path / "rows.csv").exists()


def test_a_line_that_is_no_row_is_told_and_left_out(run: Program, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f'{json.dumps(make_row(0))}\nnot json\n{json.dumps(make_row(1))}\n{{"id":')
    result = run("convert", rows, "--to", "csv", "-o", tmp_path / "t.csv")
    assert result.code == 1
    assert "rows.jsonl line 2: the line is not JSON" in result.stderr
    assert "2 rows in" in result.stderr
    assert "2 left out" in result.stderr
    assert [row["id"] for row in read_csv(tmp_path / "t.csv")] == ["0.png", "1.png"]


def test_what_is_there_is_replaced_only_when_asked(run: Program, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.csv").write_text("mine")
    result = run("convert", rows, "--to", "csv")
    assert (result.code, (tmp_path / "rows.csv").read_text()) == (2, "mine")
    assert "--existing overwrite" in result.stderr
    assert run("convert", rows, "--to", "csv", "--existing", "overwrite").code == 0
    assert len(read_csv(tmp_path / "rows.csv")) == 4
    assert run("convert", rows, "--to", "jsonl", "-o", rows, "--existing", "overwrite").code == 2
    assert run("convert", rows, "--to", "csv", "-o", tmp_path / "no" / "t.csv").code == 2
    assert len(read_rows(rows)) == 4


def test_standard_input_and_output(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    command = [
        sys.executable,
        "-m",
        "idefics_cli",
        "convert",
        "-",
        "--to",
        "csv",
        "-o",
        "-",
        "--columns",
        "id,text",
    ]
    done = subprocess.run(command, input=rows.read_bytes(), capture_output=True, check=True)
    found = list(csv.DictReader(io.StringIO(done.stdout.decode("utf-8-sig"), newline="")))
    assert [row["id"] for row in found] == ["0.png", "1.png", "2.png", "3.png"]


def make_pictures(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    rows = []
    for number, name in enumerate(["a.png", "b c.JPG", "no-suffix"]):
        path = folder / name
        PIL.Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(path, "JPEG" if name.endswith("JPG") else "PNG")
        rows.append(make_row(number, id=str(path), images=[str(path)], text=f"picture {number}"))
    return rows


def test_an_image_folder_has_copies_and_a_line_for_each(run: Program, tmp_path: Path) -> None:
    made = make_pictures(tmp_path / "in")
    gone = make_row(8, images=[str(tmp_path / "gone.png")])
    several = make_row(9, images=made[0]["images"] * 2)
    rows = write_rows(tmp_path / "rows.jsonl", [*made, make_failed(7), gone, several])
    result = run("convert", rows, "--to", "imagefolder", "--columns", "text,seconds")
    assert result.code == 1
    assert "line 4: it failed" in result.stderr
    assert "gone.png can no longer be read" in result.stderr
    assert "line 6: it has 2 images" in result.stderr
    folder = tmp_path / "rows"
    lines = read_rows(folder / "metadata.jsonl")
    assert [line["text"] for line in lines] == ["picture 0", "picture 1", "picture 2"]
    assert list(lines[0]) == ["file_name", "text", "seconds"]
    for line, row in zip(lines, made, strict=True):
        assert (folder / line["file_name"]).read_bytes() == Path(row["images"][0]).read_bytes()
        with PIL.Image.open(folder / line["file_name"]) as image:
            assert image.size == (8, 8)
    assert len(list((folder / "images").iterdir())) == 3
    assert run("convert", rows, "--to", "imagefolder").code == 2
    assert run("convert", rows, "--to", "imagefolder", "--existing", "overwrite").code == 1
    (folder / "mine.txt").write_text("mine")
    assert run("convert", rows, "--to", "imagefolder", "--existing", "overwrite").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "rows", "rows.jsonl"]


def test_hostile_rows_are_a_line_or_an_error(run: Program, tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(90):
        deep = {"a": deep}
    rows = write_rows(tmp_path / "rows.jsonl", [make_row(0, data=deep, **{"a.b": 1, "a": {"b": 2}})])
    assert run("convert", rows, "--to", "csv").code == 0
    found = read_csv(tmp_path / "rows.csv")[0]
    assert (found["a.b"], found["a.b_"]) == ("1", "2")
    wide = write_rows(tmp_path / "wide.jsonl", [make_row(0, data={str(n): n for n in range(3000)})])
    result = run("convert", wide, "--to", "csv")
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert "more than 2,000 columns" in result.stderr


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    sizes = []
    for count in (2_000, 20_000):
        rows = write_rows(tmp_path / f"{count}.jsonl", (make_row(n, text="word " * 40) for n in range(count)))
        code = (
            "import resource, sys; from idefics_cli.cli.app import execute\n"
            f"assert execute(['convert', {str(rows)!r}, '--to', 'parquet', '--quiet']) == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        sizes.append(int(done.stdout))
        assert pq.read_metadata(tmp_path / f"{count}.parquet").num_rows == count
    assert sizes[1] - sizes[0] < 60_000, sizes
