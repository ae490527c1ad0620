"""Images in a bucket, of an S3 that moto serves on this machine: `make test-buckets`."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cutting_proxy import run_proxy
from tests.program import Run
from tests.records.tables import draw, write_parquet, write_shard
from tests.scripted import ScriptedBackend
from tests.scripted_program import COMMAND, ROOT

pytestmark = pytest.mark.buckets
Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")
SECRET = "wJalrXUtnFEMIexamplekeythatnobodymaysee"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    where = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = shutil.which("moto_server", path=where)
    assert command, "make test-buckets installs it"
    port = 8000 + os.getpid() % 20_000
    process = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE01")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")).close()
    system = s3fs.S3FileSystem()
    system.mkdir("photos")
    return system


def ask(run: Program, *arguments: Any) -> tuple[Run, list[dict[str, Any]]]:
    result = run("caption", *arguments, "--format", "jsonl", *MODEL, backend=ScriptedBackend(" ok"))
    assert SECRET not in result.stdout + result.stderr
    assert "AKIAEXAMPLE" not in result.stdout + result.stderr
    return result, [json.loads(line) for line in result.stdout.splitlines()]


def test_folders_patterns_and_lists_in_a_bucket(run: Program, bucket: Any, tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.png", "note.txt", "sub/c.png")):
        bucket.pipe_file(f"photos/{name}", draw(number))
    bucket.pipe_file("photos/empty.png", b"")
    for arguments, names in [
        (("s3://photos/a.png",), ["a.png"]),
        (("s3://photos/sub",), ["sub/c.png"]),
        (("s3://photos/[ab].png",), ["a.png", "b.png"]),
        (("s3://photos/*b.png",), ["b.png"]),
    ]:
        result, rows = ask(run, *arguments)
        assert result.code == 0, result.stderr
        assert [row["id"] for row in rows] == [f"s3://photos/{name}" for name in names]
    result, rows = ask(run, "s3://photos/", "-r")
    assert [row["id"] for row in rows] == [f"s3://photos/{n}" for n in ("a.png", "b.png", "empty.png", "sub/c.png")]
    assert rows[2]["error"]["code"] == "not_an_image"
    assert "skipped files that are not images: .txt 1" in result.stderr
    (tmp_path / "list.txt").write_text("s3://photos/a.png\ns3://photos/gone.png\ns3://nowhere/a.png\n")
    result, rows = ask(run, "--files-from", tmp_path / "list.txt")
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "not_found", "not_found"]


def test_tables_and_shards_in_a_bucket(run: Program, bucket: Any, tmp_path: Path) -> None:
    bucket.put_file(str(write_parquet(tmp_path / "a.parquet", 7)), "photos/data/a.parquet")
    bucket.put_file(str(write_shard(tmp_path / "s.tar", range(3))), "photos/s-00.tar")
    result, rows = ask(run, "--from", "s3://photos/data/a.parquet", "--where", "price > 4")
    assert [row["id"] for row in rows] == ["s3://photos/data/a.parquet#6", "s3://photos/data/a.parquet#7"]
    result, rows = ask(run, "--from", "s3://photos/data/")
    assert (result.code, len(rows)) == (0, 7)
    result, rows = ask(run, "--from", "s3://photos/s-{00..00}.tar")
    assert (result.code, len(rows)) == (0, 3)
    result, _ = ask(run, "--from", "s3://photos/none.parquet")
    assert (result.code, result.stderr.count("\n")) == (2, 1)


def test_a_server_that_is_not_there_is_a_row(run: Program, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    began = time.monotonic()
    _, rows = ask(run, "s3://photos/a.png", "--timeout", "5")
    assert time.monotonic() - began < 20
    assert rows[0]["error"]["code"] in ("timeout", "fetch_failed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    _, rows = ask(run, "s3://photos/a.png", "--timeout", "20")
    assert "needs credentials" in rows[0]["error"]["message"]


IMPATIENT = """
import runpy
from idefics_cli.results import upload
upload.FIRST_SECONDS, upload.PAUSE_SECONDS, upload.PART_BYTES = 0.5, 0.1, 20_000
runpy.run_module("tests.scripted_program", run_name="__main__")
"""
ROWS = "s3://photos/run/rows.jsonl"


def test_rows_go_there_over_cut_uploads_and_kills(
    bucket: Any, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third upload is cut off within its body, two runs are killed, and every row is there once."""
    table = write_parquet(tmp_path / "t.parquet", 400, group_rows=100)
    words = ("caption", "--from", table, "-o", ROWS, *MODEL, "--quiet")
    command = [sys.executable, "-c", IMPATIENT, *map(str, words)]
    with run_proxy(int(server.rpartition(":")[2]), b"part-") as proxy:
        slow = os.environ | {"AWS_ENDPOINT_URL": proxy.url, "SCRIPTED_SECONDS": "0.01"}

        def count_parts() -> int:
            bucket.invalidate_cache()
            return sum("part-" in name for name in bucket.find("photos/run"))

        for least in (2, 5):
            proxy.cuts = 2
            program = subprocess.Popen(command, cwd=ROOT, env=slow, stderr=subprocess.PIPE)
            while program.poll() is None and count_parts() < least:
                time.sleep(0.2)
            program.kill()
            program.communicate()
        assert not bucket.exists("photos/run/rows.jsonl/_manifest.json")
        proxy.cuts = 2
        last = subprocess.run(command, cwd=ROOT, env=slow, capture_output=True, text=True)
        assert (last.returncode, last.stderr) == (0, "")
        assert proxy.cut >= 3
    bucket.invalidate_cache()
    names = sorted(name for name in bucket.find("photos/run") if "part-" in name)
    lines = [line for name in names for line in bucket.cat_file(name).splitlines()]
    assert [json.loads(line)["id"] for line in lines] == [f"{table}#{number}" for number in range(1, 401)]
    manifest = json.loads(bucket.cat_file("photos/run/rows.jsonl/_manifest.json"))
    assert (manifest["rows"], len(manifest["parts"])) == (400, len(names))
    assert not bucket.exists("photos/run/rows.jsonl/_lock.json")


def test_two_machines_do_not_write_the_same_rows(
    run: Program, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store itself decides, by the condition that there is no lock."""
    table = write_parquet(tmp_path / "t.parquet", 40)
    words = ("caption", "--from", table, "-o", ROWS, *MODEL)
    slow = os.environ | {"SCRIPTED_SECONDS": "0.2", "IDEFICS_STATE_DIR": str(tmp_path / "other")}
    first = subprocess.Popen([*COMMAND, *map(str, words)], cwd=ROOT, env=slow, stderr=subprocess.PIPE)
    while not bucket.exists("photos/run/rows.jsonl/_lock.json"):
        time.sleep(0.05)
        bucket.invalidate_cache()
    result = run(*words, backend=ScriptedBackend(" ok"))
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert f"is writing {ROWS}" in result.stderr
    first.send_signal(signal.SIGINT)
    told = first.communicate()[1].decode()
    assert first.returncode == 130
    assert "cannot keep apart" not in told
    result = run(*words, backend=ScriptedBackend(" ok"))
    assert result.code == 0, result.stderr
    bucket.invalidate_cache()
    rows = b"".join(bucket.cat_file(name) for name in bucket.find("photos/run") if "part-" in name)
    assert rows.count(b"\n") == 40


def test_tables_and_reading_commands(run: Program, bucket: Any, tmp_path: Path) -> None:
    for number in range(6):
        bucket.pipe_file(f"photos/in/{number}.png", draw(number))
    result = run(
        *("caption", "s3://photos/in", "--format", "imagefolder", "-o", "s3://photos/train", *MODEL),
        *("--also", "s3://photos/rows.parquet"),
        backend=ScriptedBackend(" ok"),
    )
    assert result.code == 0, result.stderr
    bucket.invalidate_cache()
    assert len(bucket.ls("photos/train/images")) == 6
    assert pq.read_table(io.BytesIO(bucket.cat_file("photos/rows.parquet"))).num_rows == 6
    found = run("find", "s3://photos/train.jsonl", "ok")
    assert found.stdout.splitlines() == [f"s3://photos/in/{number}.png" for number in range(6)]
    for result in (
        found,
        run("convert", "s3://photos/train.jsonl", "--to", "csv", "-o", "s3://photos/a.csv"),
    ):
        assert result.code == 0, result.stderr
        assert SECRET not in result.stdout + result.stderr
    bucket.invalidate_cache()
    assert bucket.cat_file("photos/a.csv").count(b"\r\n") == 7
