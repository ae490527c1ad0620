"""Rows found from a shell: the names that a pipeline goes on with."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import Run
from tests.review.rows import make_failed, make_ranked, make_row, write_rows

Program = Callable[..., Run]
ROWS = [
    make_row(0, text="A red car on a wide field", fields={"question": "what?"}),
    make_row(1, text="a blue car; a dog"),
    make_ranked(2, "cat", 0.9),
    make_ranked(3, "cat", 0.6),
    make_failed(4),
    make_row(5, id="0.png#2", images=["0.png"], text="a red car, again"),
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (["red car"], ["0.png"]),
        (["car", "-red"], ["1.png"]),
        (["car -red"], ["1.png"]),
        (['"blue car"'], ["1.png"]),
        ([r"/\bdogs?\b/"], ["1.png"]),
        (["label:cat"], ["2.png", "3.png"]),
        (["label:cat", "confidence:0.8.."], ["2.png"]),
        (["is:failed"], ["4.png"]),
        (["is:failed", "error:not_found"], ["4.png"]),
    ],
)
def test_names_are_printed_once_each(run: Program, rows: Path, query: list[str], names: list[str]) -> None:
    result = run("find", rows, "--", *query)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout == "".join(f"{name}\n" for name in names)
    assert run("find", rows, "-0", "--", *query).stdout == "".join(f"{name}\0" for name in names)


def test_rows_are_printed_as_they_stand(run: Program, rows: Path) -> None:
    lines = rows.read_text(encoding="utf-8").splitlines()
    result = run("find", rows, "label:cat", "--format", "jsonl", "--sort", "confidence")
    assert result.stdout == f"{lines[3]}\n{lines[2]}\n"
    assert run("find", rows, "label:cat", "--format", "jsonl", "-0").code == 2


def test_what_a_person_corrected_is_found(run: Program, rows: Path) -> None:
    from idefics_cli.review.session import ReviewSession

    session = ReviewSession((rows,), Path(os.environ["IDEFICS_CACHE_DIR"]))
    session.read_all()
    session.decide([1], "text", {"text": "a green bus"}, {})
    session.index.close()
    assert run("find", rows, "bus").stdout == "1.png\n"
    assert run("find", rows, "dog").code == 4


def test_nothing_found_and_what_cannot_be_asked_are_one_line(run: Program, rows: Path) -> None:
    for code, *arguments in [
        (4, rows, "zebra"),
        (2, rows, "/(/"),
        (2, rows, "is:blue"),
        (2, rows, "is:duplicate"),
        (2, rows, "car", "--sort", "colour"),
        (2, rows.with_name("none.jsonl"), "car"),
        (2, rows.parent, "car"),
    ]:
        result = run("find", *arguments)
        assert (result.code, result.stdout, result.stderr.count("\n")) == (code, "", 1), arguments


def test_names_keep_their_bytes_and_rows_may_come_from_a_pipe(tmp_path: Path) -> None:
    name = b"caf\xe9\n\x1b[31m.png"
    shown = "caf\\xe9\\n.png"
    row = make_row(0, id=shown, images=[shown], path_b64=[base64.b64encode(name).decode()])
    rows = write_rows(tmp_path / "rows.jsonl", [row, make_row(1, text="a square")])
    done = subprocess.run(
        [sys.executable, "-m", "idefics_cli", "find", "-", "circle", "-0"],
        input=rows.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (name + b"\0", b"")


def test_open_serves_the_review_page_at_what_is_found(rows: Path) -> None:
    command = [sys.executable, "-m", "idefics_cli", "find", str(rows), "red car", "--open"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        address = program.stdout.readline().strip()
        assert address.endswith("/#red%20car")
        with urllib.request.urlopen(address) as page:
            assert b'id="query"' in page.read()
    finally:
        program.send_signal(signal.SIGINT)
        _, talk = program.communicate(timeout=60)
    assert program.returncode == 0, talk
