"""A table of many rows: the first answer soon, memory that does not grow, every row once over kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.records.tables import draw
from tests.scripted_program import COMMAND, ROOT

FIRST_SECONDS = 5.0
GROWTH_BYTES = 60_000_000
LEDGER_BYTES = 250
"""What a run may keep of each row that is there when it goes on."""


def write_many(path: Path, count: int, group_rows: int = 50_000) -> Path:
    schema = pa.schema([("title", pa.string()), ("image", pa.binary())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, group_rows):
            numbers = range(start, min(count, start + group_rows))
            columns = [[f"title {number}" for number in numbers], [draw(number) for number in numbers]]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=group_rows)
    return path


@dataclass
class Lines:
    """The lines of a file that grows; each byte is read once."""

    path: Path
    count: int = 0
    _offset: int = 0

    def read(self) -> int:
        if self.path.exists():
            with open(self.path, "rb") as stream:
                stream.seek(self._offset)
                while block := stream.read(1 << 20):
                    self.count += block.count(b"\n")
                    self._offset += len(block)
        return self.count


@dataclass
class Leg:
    """How a run went on: seconds to its first row, and its bytes in memory then and at its end."""

    first: float = 0.0
    early: int = 0
    late: int = 0


def run_until(command: Sequence[str | Path], rows: Path, count: int | None, code: int = 0) -> Leg:
    """Run until there are `count` rows, then kill it; or to the end, which has a code."""
    lines, leg = Lines(rows), Leg()
    before = lines.read()
    began = time.monotonic()
    program = subprocess.Popen([*COMMAND, *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        while program.poll() is None and (count is None or lines.count < count):
            if lines.read() > before:
                leg.first = leg.first or time.monotonic() - began
                leg.late = read_resident(program.pid) or leg.late
                if not leg.early and lines.count > before + 1000:
                    leg.early = leg.late
            time.sleep(0.05)
        if count is None:
            assert program.wait() == code, program.communicate()[1]
        else:
            assert program.poll() is None, program.communicate()[1]
    finally:
        program.send_signal(signal.SIGKILL)
        program.communicate()
    return leg


def read_resident(pid: int) -> int:
    """Bytes in memory, as Linux tells them; 0 where it does not, or of what has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 if "VmRSS:" in status else 0


def run_over_kills(table: Path, rows: Path, count: int) -> list[Leg]:
    """Answer all rows of a table over two kills, and check that each has its row, in its place."""
    command = ("caption", "--from", table, "-o", rows, "--model", "idefics-9b", "--quiet")
    legs = [run_until(command, rows, end) for end in (count // 3, count * 2 // 3, None)]
    number = 0
    with open(rows, "rb") as stream:
        for number, line in enumerate(stream, 1):
            row = json.loads(line)
            assert (row["id"], row["error"]) == (f"{table}#{number}", None)
    assert number == count
    return legs


def test_every_row_is_there_once_over_kills(tmp_path: Path) -> None:
    run_over_kills(write_many(tmp_path / "t.parquet", 2000, 500), tmp_path / "rows.jsonl", 2000)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
def test_a_million_rows_stream_and_every_row_is_there_once_over_kills(tmp_path: Path) -> None:
    """TABLE_ROWS=1000000 takes about 15 minutes of a core."""
    count = int(os.environ.get("TABLE_ROWS", "100000"))
    legs = run_over_kills(write_many(tmp_path / "t.parquet", count), tmp_path / "rows.jsonl", count)
    sys.stdout.write(f"{legs}\n")
    assert legs[0].first < FIRST_SECONDS
    for leg in legs:
        assert leg.late < leg.early + GROWTH_BYTES, legs
        assert leg.early < legs[0].early + GROWTH_BYTES + LEDGER_BYTES * count, legs


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
def test_a_shard_of_tiny_members_costs_a_row_each_and_no_memory(tmp_path: Path) -> None:
    """SHARD_MEMBERS=1000000 takes about 10 minutes of a core; those of one key are one row."""
    count = int(os.environ.get("SHARD_MEMBERS", "50000"))
    shard, rows = tmp_path / "tiny.tar", tmp_path / "rows.jsonl"
    with open(shard, "wb") as stream:
        for number in range(2 * count):
            member = tarfile.TarInfo(f"{number:07d}.png" if number < count else f"one.{number}.txt")
            member.size = 8 if number < count else 0
            content = b"\x89PNG\r\n\x1a\n".ljust(512, b"\0") if number < count else b""
            stream.write(member.tobuf(tarfile.USTAR_FORMAT) + content)
        stream.write(bytes(10_240))
    command = ("caption", "--from", shard, "-o", rows, "--model", "idefics-9b", "--quiet")
    leg = run_until(command, rows, None, code=1)
    assert leg.late < leg.early + GROWTH_BYTES, leg
    with open(rows, "rb") as stream:
        codes = [json.loads(line)["error"]["code"] for line in stream]
    assert codes == ["not_an_image"] * count + ["not_found"]
