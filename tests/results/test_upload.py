"""Rows in a bucket, of a driver that keeps objects in a folder: parts, a manifest, faults and kills."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.registry import _registry

from idefics_cli.errors import AnswerError, ItemError
from idefics_cli.results import store_lock, upload
from idefics_cli.values import Request
from tests.program import Run
from tests.records.tables import draw
from tests.scripted import ScriptedBackend
from tests.scripted_program import ROOT

Program = Callable[..., Run]
DRIVERS = Path(__file__).parents[1] / "drivers"
MODEL = ("--model", "idefics-9b")
ROWS = "s3://bucket/run/rows.jsonl"
IMPATIENT = """
import runpy
from idefics_cli.results import upload
upload.FIRST_SECONDS, upload.PAUSE_SECONDS = 0.3, 0.1
runpy.run_module("tests.scripted_program", run_name="__main__")
"""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a bucket; `s3fs` is the driver beside these tests, here and in programs."""
    folder = tmp_path / "buckets"
    (folder / "bucket").mkdir(parents=True)
    monkeypatch.setenv("BUCKETS", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(DRIVERS))
    monkeypatch.syspath_prepend(str(DRIVERS))
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "s3fs"}
    monkeypatch.setitem(_registry, "s3", importlib.import_module("s3fs").S3FileSystem)
    yield folder / "bucket"
    sys.modules.pop("s3fs", None)
    sys.modules.update(real)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(draw(number))
    return folder


def ask(run: Program, pictures: Path, *more: Any, reply: Any = " ok") -> Run:
    words = ("caption", pictures, "-o", ROWS, *MODEL, *more)
    return run(*words, backend=ScriptedBackend(reply))


def read_rows(bucket: Path) -> list[dict[str, Any]]:
    parts = sorted((bucket / "run/rows.jsonl").glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def list_objects(bucket: Path) -> list[str]:
    folder = bucket / "run/rows.jsonl"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fail_some(request: Request) -> str | ItemError:
    name = Path(request.images[0]).name
    return AnswerError("no memory", code="out_of_memory") if name in ("03.png", "07.png") else f" {name}"


def test_a_run_puts_parts_then_a_manifest_and_is_not_run_again(
    run: Program, bucket: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", 2000)
    result = ask(run, pictures)
    assert result.code == 0, result.stderr
    names = list_objects(bucket)
    assert len(names) > 3
    assert names[0] == "_manifest.json"
    manifest = json.loads((bucket / "run/rows.jsonl/_manifest.json").read_text())
    assert (manifest["rows"], [part["name"] for part in manifest["parts"]]) == (12, names[1:])
    assert [Path(row["id"]).name for row in read_rows(bucket)] == [f"{n:02d}.png" for n in range(12)]
    assert not list(Path(os.environ["IDEFICS_STATE_DIR"]).rglob("*.jsonl")), "a whole run leaves nothing here"
    backend = ScriptedBackend(" other")
    result = run("caption", pictures, "-o", ROWS, *MODEL, backend=backend)
    assert (result.code, backend.requests, list_objects(bucket)) == (0, [], names)


def test_failed_rows_are_asked_again_and_their_parts_put_anew(
    run: Program, bucket: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", 2000)
    assert ask(run, pictures, reply=fail_some).code == 1
    before = list_objects(bucket)
    result = ask(run, pictures, "--existing", "retry-errors")
    assert result.code == 0, result.stderr
    rows = read_rows(bucket)
    assert sorted(Path(row["id"]).name for row in rows) == [f"{n:02d}.png" for n in range(12)]
    assert not any(row["error"] for row in rows)
    assert len(set(before) & set(list_objects(bucket))) > 2, "other parts stay"


def test_another_run_is_refused_or_replaces_all_rows(run: Program, bucket: Path, pictures: Path) -> None:
    assert ask(run, pictures).code == 0
    before = list_objects(bucket)
    result = ask(run, pictures, "--max-new-tokens", "3")
    assert (result.code, list_objects(bucket)) == (2, before)
    assert f"{ROWS} line 1 was written with decoding" in result.stderr
    result = ask(run, pictures, "--max-new-tokens", "3", "--existing", "overwrite", reply=" new")
    assert result.code == 0, result.stderr
    assert {row["text"] for row in read_rows(bucket)} == {"new"}
    assert len(read_rows(bucket)) == 12


def test_a_run_that_stops_has_no_manifest_and_the_next_one_has(run: Program, bucket: Path, pictures: Path) -> None:
    result = ask(run, pictures, "--max-errors", "1", reply=fail_some)
    assert result.code == 1
    assert "_manifest.json" not in list_objects(bucket)
    assert 3 < len(read_rows(bucket)) < 12
    result = ask(run, pictures, reply=fail_some)
    assert f"idefics find {ROWS} is:failed" in result.stderr
    assert "_manifest.json" in list_objects(bucket)
    assert len(read_rows(bucket)) == 12


def test_on_another_machine_a_run_goes_on_from_the_parts(
    run: Program, bucket: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(run, pictures, "--max-errors", "1", reply=fail_some)
    done = len(read_rows(bucket))
    monkeypatch.setenv("IDEFICS_STATE_DIR", str(tmp_path / "elsewhere"))
    backend = ScriptedBackend(" ok")
    result = run("caption", pictures, "-o", ROWS, *MODEL, backend=backend)
    assert (result.code, len(backend.requests), len(read_rows(bucket))) == (1, 12 - done, 12)
    next((bucket / "run/rows.jsonl").glob("part-*")).write_bytes(b"half")
    monkeypatch.setenv("IDEFICS_STATE_DIR", str(tmp_path / "a third"))
    result = ask(run, pictures)
    assert result.code == 2
    assert "is damaged; remove it" in result.stderr


def test_two_runs_do_not_write_the_same_rows(
    run: Program, bucket: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = bucket / "run/rows.jsonl/_lock.json"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"owner": "other", "host": "node7", "renewed": time.time()}))
    result = ask(run, pictures)
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert f"another run on node7 is writing {ROWS}" in result.stderr
    assert list_objects(bucket) == ["_lock.json"]
    lock.write_text(json.dumps({"owner": "other", "host": "node7", "renewed": time.time() - 1000}))
    monkeypatch.setattr(store_lock, "SETTLING_SECONDS", 0.0)
    assert ask(run, pictures).code == 0
    assert "_lock.json" not in list_objects(bucket)


def test_what_a_bucket_refuses_is_one_line_without_secrets(run: Program, bucket: Path, pictures: Path) -> None:
    result = run("caption", pictures, "-o", "s3://none/rows.jsonl", *MODEL, backend=ScriptedBackend(" ok"))
    assert (result.code, result.stderr.count("\n")) == (2, 1), result.stderr
    (bucket.parent / ".faults").write_text("part- 1000")
    result = ask(run, pictures)
    assert (result.code, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "cannot be written" in result.stderr
    assert "secret" not in result.stderr
    assert "AKIA" not in result.stderr
    (bucket.parent / ".faults").write_text("part- 2")
    backend = ScriptedBackend(" ok")
    result = run("caption", pictures, "-o", ROWS, *MODEL, backend=backend)
    assert (result.code, backend.requests) == (0, []), "the rows waited on this machine"
    assert len(read_rows(bucket)) == 12
    for words in (
        ("-o", "zip://a::b.zip"),
        ("-o", "hf://datasets/a/b/rows.jsonl"),
        ("-o", ROWS, "--format", "text"),
    ):
        result = run("caption", pictures, *words, *MODEL, backend=ScriptedBackend(" ok"))
        assert (result.code, result.stderr.count("\n")) == (2, 1), result.stderr


def test_commands_read_rows_in_a_bucket(run: Program, bucket: Path, pictures: Path, tmp_path: Path) -> None:
    ask(run, pictures, reply=fail_some)
    found = run("find", ROWS, "is:failed")
    assert (found.code, len(found.stdout.splitlines()), found.stderr) == (0, 2, "")
    (tmp_path / "references.jsonl").write_text(
        "".join(json.dumps({"image": str(path), "answers": ["a"]}) + "\n" for path in pictures.iterdir())
    )
    result = run("eval", ROWS, "--references", tmp_path / "references.jsonl", "--metric", "exact")
    assert result.code == 0, result.stderr
    result = run("review", ROWS, "--html", tmp_path / "page.html")
    assert "12 rows are in" in result.stderr
    result = run("merge", ROWS, "-o", tmp_path / "all.jsonl")
    assert (result.code, "12 rows of 1 files" in result.stderr) == (1, True), result.stderr
    result = run("convert", ROWS, "--to", "csv", "-o", tmp_path / "rows.csv")
    assert result.code == 0, result.stderr
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 13
    result = run("convert", ROWS, "--to", "parquet", "-o", "s3://bucket/rows.parquet")
    assert result.code == 0, result.stderr
    assert (bucket / "rows.parquet").read_bytes()[:4] == b"PAR1"
    result = run("convert", ROWS, "--to", "csv", "-o", "s3://bucket/rows.parquet")
    assert (result.code, "exists" in result.stderr) == (2, True)
    result = run("find", "s3://bucket/none.jsonl", "x")
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    (bucket / "one.jsonl").write_bytes(b"".join(p.read_bytes() for p in bucket.rglob("part-*")))
    assert run("find", "s3://bucket/one.jsonl", "is:failed").stdout == found.stdout
    (bucket / "run/rows.jsonl/_manifest.json").unlink()
    assert "has no manifest" in run("find", ROWS, "is:failed").stderr


@pytest.mark.parametrize("form", ["csv", "parquet", "imagefolder"])
def test_tables_are_put_when_all_rows_are_there(run: Program, bucket: Path, pictures: Path, form: str) -> None:
    target = f"s3://bucket/t/{form}"
    words = ("caption", pictures, "--format", form, "-o", target, *MODEL)
    result = run(*words, "--max-errors", "1", backend=ScriptedBackend(fail_some))
    assert (result.code, (bucket / "t" / form).exists()) == (1, False)
    result = run(*words, backend=ScriptedBackend(" ok"))
    assert (result.code, (bucket / "t" / form).exists()) == (1, True), result.stderr
    if form == "imagefolder":
        lines = (bucket / "t" / form / "metadata.jsonl").read_text().splitlines()
        names = [json.loads(line)["file_name"] for line in lines]
        assert len(names) == 11
        assert all((bucket / "t" / form / name).exists() for name in names)


def test_kills_and_broken_connections_lose_no_row_and_double_none(bucket: Path, pictures: Path) -> None:
    """Two runs that are killed, one that is interrupted, and one that ends, with puts that fail in between."""
    for number in range(12, 60):
        (pictures / f"{number:02d}.png").write_bytes(draw(number))
    (bucket.parent / ".faults").write_text("part- 2 _manifest 1")
    command = [
        sys.executable,
        "-c",
        IMPATIENT,
        "caption",
        str(pictures),
        "-o",
        ROWS,
        *MODEL,
        "--batch-size",
        "1",
    ]

    def stop_at(count: int, number: int) -> str:
        slow = os.environ | {"SCRIPTED_SECONDS": "0.1"}
        program = subprocess.Popen([*command, "--quiet"], cwd=ROOT, env=slow, stderr=subprocess.PIPE, text=True)
        while program.poll() is None and not (count_rows() >= count and (count < 30 or read_rows(bucket))):
            time.sleep(0.05)
        program.send_signal(number)
        return program.communicate()[1]

    def count_rows() -> int:
        files = Path(os.environ["IDEFICS_STATE_DIR"]).rglob("rows.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)

    stop_at(15, signal.SIGKILL)
    stop_at(30, signal.SIGKILL)
    assert read_rows(bucket), "what a killed run has put is there"
    told = stop_at(45, signal.SIGINT)
    assert "run the same command again to continue" in told
    assert len(read_rows(bucket)) == count_rows() >= 45, "Ctrl-C puts what is done"
    assert "_manifest.json" not in list_objects(bucket)
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert [Path(row["id"]).name for row in read_rows(bucket)] == [f"{n:02d}.png" for n in range(60)]
    assert json.loads((bucket / "run/rows.jsonl/_manifest.json").read_text())["rows"] == 60


def test_the_page_shows_images_of_a_bucket(run: Program, bucket: Path, tmp_path: Path) -> None:
    (bucket / "in").mkdir()
    for number in range(3):
        (bucket / "in" / f"{number}.png").write_bytes(draw(number))
    result = run("caption", "s3://bucket/in", "-o", ROWS, *MODEL, backend=ScriptedBackend(" ok"))
    assert result.code == 0, result.stderr
    (bucket / "in" / "2.png").unlink()
    result = run("review", ROWS, "--html", tmp_path / "page.html")
    assert result.code == 0, result.stderr
    assert (tmp_path / "page.html").read_text().count("data:image/webp") == 2


@pytest.mark.parametrize(("scheme", "driver", "extra"), [("gs", "gcsfs", "gs"), ("az", "adlfs", "az")])
def test_a_driver_that_is_missing_is_named_with_its_extra(
    run: Program, pictures: Path, scheme: str, driver: str, extra: str
) -> None:
    if importlib.util.find_spec(driver) is not None:
        pytest.skip(f"{driver} is installed")
    place = f"{scheme}://bucket/rows.jsonl"
    for words in (
        ("caption", pictures, "-o", place, *MODEL),
        ("caption", pictures, "-o", place, "--format", "csv", *MODEL),
        ("caption", "--from", f"{scheme}://bucket/t.parquet", *MODEL),
        ("find", place, "x"),
        ("convert", place, "--to", "csv", "-o", "-"),
    ):
        result = run(*words, backend=ScriptedBackend(" ok"))
        assert (result.code, result.stderr.count("\n")) == (2, 1), result.stderr
        assert f"needs {driver}; pip install 'idefics-cli[{extra}]'" in result.stderr
