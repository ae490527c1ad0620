"""A file of rows on a real disk: cut off, foreign, locked, full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idefics_cli.errors import UsageError
from idefics_cli.jsonl import dump_row
from idefics_cli.results.file import Existing, RowFile
from idefics_cli.results.ledger import name_item, name_run
from idefics_cli.rows import Result
from idefics_cli.values import Failure, Item

RUN = name_run("smolvlm", {}, None)


def keyed(id: str) -> Item:
    item = Item(id, (f"{id}.png",), task="caption")
    return replace(item, key=name_item(RUN, item))


def line(item: Item, text: str | None = "a") -> str:
    result = Result(item.id, item.images, item.task, {}, text, "stop", None, None, "smolvlm", None, "t@1", key=item.key)
    if text is None:
        result = replace(result, error=Failure("timeout", "too slow"))
    return dump_row(result.to_row())


def write(path: Path, *items: Item, existing: Existing = "resume", text: str | None = "a") -> list[str]:
    """Answer what is still to be answered; the ids of that."""
    rows = RowFile(path, existing, RUN)
    todo = [item for item in items if rows.lookup(item) == "todo"]
    for item in todo:
        rows.append(line(item, text), item.key)
    rows.close()
    return [item.id for item in todo]


def ids(path: Path) -> list[str]:
    return [json.loads(each)["id"] for each in path.read_text().splitlines()]


A, B, C = keyed("a"), keyed("b"), keyed("é\n\u2028")


def test_what_has_a_row_is_not_answered_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert write(path, A, B) == ["a", "b"]
    assert write(path, A, B, C) == [C.id]
    assert write(path, A, B, C) == []
    assert ids(path) == ["a", "b", C.id]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), junk=st.sampled_from([b"", b"\0", b"\0" * 700]))
def test_a_file_cut_anywhere_is_gone_on_with(tmp_path: Path, cut: int, junk: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    write(path, A, B, C)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut] + (junk if cut < len(whole) else b""))
    write(path, A, B, C)
    assert path.read_bytes() == whole


def test_retrying_replaces_failed_rows_and_only_when_there_is_something_better(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, A, text=None)
    write(path, B)
    assert write(path, A, B) == []
    rows = RowFile(path, "retry-errors", RUN)
    assert [rows.lookup(A), rows.lookup(B)] == ["todo", "done"]
    assert ids(path) == ["a", "b"]  # nothing is lost before its replacement is there
    rows.append(line(A, "new"), A.key)
    assert ids(path) == ["a", "b", "a"]
    rows.close()
    assert ids(path) == ["b", "a"]
    assert json.loads(path.read_text().splitlines()[1])["text"] == "new"


def test_overwriting_keeps_the_old_file_until_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("anything at all")
    path.chmod(0o640)
    rows = RowFile(path, "overwrite", RUN)
    rows.lookup(A)
    rows.close()
    assert path.read_text() == "anything at all"
    assert write(path, A, existing="overwrite") == ["a"]
    assert ids(path) == ["a"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old\n")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    write(tmp_path / "link.jsonl", A, existing="overwrite")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert ids(tmp_path / "real.jsonl") == ["a"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("some notes\n", "line 1 is not a row"),
        ("some notes", "is not a file of rows"),
        ('{"id": "a", "text": "b"}\n', "line 1 is not a row"),
        ('{"id": "a", "task": "x", "key": "short", "error": null}\n', "line 1 is not a row"),
        ("[1]\n", "line 1 is not a row"),
    ],
)
def test_other_files_are_refused_and_untouched(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=reason):
        RowFile(path, "resume", RUN)
    assert path.read_text() == content


def test_rows_of_another_model_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, A)
    with pytest.raises(UsageError, match='line 1 was written with model "smolvlm", which is now "idefics2"'):
        RowFile(path, "resume", name_run("idefics2", {}, None))


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    program = f"""
from pathlib import Path
from idefics_cli.results.ledger import name_run
from idefics_cli.results.file import RowFile
RowFile(Path({str(path)!r}), {{!r}}, name_run("smolvlm", {{{{}}}}, None))
"""
    rows = RowFile(path, "resume", RUN)
    rows.append(line(A), A.key)
    for existing in ("resume", "overwrite"):
        other = subprocess.run(
            [sys.executable, "-c", program.format(existing)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert f"another run is writing {path}" in other.stderr
    rows.close()
    rows = RowFile(path, "overwrite", RUN)
    rows.append(line(B), B.key)  # the lock goes over to the file that took the old one's place
    with pytest.raises(UsageError, match="another run"):
        RowFile(path, "resume", RUN)
    rows.close()
    assert write(path, B, A) == ["a"]


def test_a_run_without_rows_leaves_no_file(tmp_path: Path) -> None:
    RowFile(tmp_path / "rows.jsonl", "resume", RUN).close()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    """A limit on the size of files is met as a full disk is: part of a row fits, the rest does not."""
    path = tmp_path / "rows.jsonl"
    program = f"""
import resource, signal
from pathlib import Path
from tests.results.test_file import A, B, RUN, RowFile, line
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
rows = RowFile(Path({str(path)!r}), "resume", RUN)
for number in range(9):
    rows.append(line(A, "x" * 100), A.key)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert f"cannot write to {path}: File too large; its rows are complete" in result.stderr
    assert 0 < len(ids(path)) < 9
    assert path.read_bytes().endswith(b"}\n")
