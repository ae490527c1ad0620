"""Whether an image is still what it was when its row was written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.content import UNKNOWN, Content, describe_bytes, describe_file, has_changed, mark, read_mark


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels")
    return path


def test_a_file_is_its_bytes_its_size_and_its_time(file: Path) -> None:
    content = describe_file(file)
    assert content == describe_bytes(b"pixels", file.stat())
    assert content is not None
    assert (content.digest, content.size) == (hashlib.sha256(b"pixels").hexdigest(), 6)
    assert describe_bytes(b"pixels") == Content(content.digest, 6)


def test_only_other_bytes_are_a_change(file: Path) -> None:
    known = mark([describe_file(file)])
    assert not has_changed(known, [str(file)])
    os.utime(file, (1, 1))
    assert not has_changed(known, [str(file)])
    file.write_bytes(b"Pixels")
    assert has_changed(known, [str(file)])
    file.unlink()
    assert not has_changed(known, [str(file)])  # what is gone cannot be asked about again
    os.mkfifo(file)
    assert has_changed(known, [str(file)])


def test_each_of_several_counts_and_what_is_no_file_does_not(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.png"
    other.write_bytes(b"other")
    fetched = describe_bytes(b"from afar")
    known = mark([describe_file(file), fetched, describe_file(other)])
    paths = [str(file), None, str(other)]
    assert not has_changed(known, paths)
    assert has_changed(known, [str(other), None, str(file)])
    other.write_bytes(b"another")
    assert has_changed(known, paths)


def test_what_was_missing_and_is_there_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    known = mark([describe_file(path)])
    assert not has_changed(known, [str(path)])
    path.write_bytes(b"here")
    assert has_changed(known, [str(path)])


@pytest.mark.parametrize("path", ["/proc/self/mem", "/dev/zero", "/", "a\0b", "x" * 300])
def test_what_is_no_file_to_be_read_holds_nothing(path: str) -> None:
    assert describe_file(path) is None
    assert not has_changed(mark([None]), [path])


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"content": None},
        {"content": []},
        {"content": 3},
        {"content": [{}]},
        {"content": [{"sha256": "a", "bytes": "many", "modified": 1}]},
    ],
)
def test_rows_that_do_not_say_are_never_changed(row: dict[str, Any], file: Path) -> None:
    assert read_mark(row) == UNKNOWN
    assert not has_changed(UNKNOWN, [str(file)])


def test_a_row_says_it_as_it_was(file: Path) -> None:
    contents = [describe_file(file), None, describe_bytes(b"x")]
    assert read_mark({"content": [one and one.to_row() for one in contents]}) == mark(contents)
