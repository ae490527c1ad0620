"""A table of a million rows: the first answer soon, memory that does not grow, every row once over kills."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.records.tables import draw
from tests.review.rows import read_rows
from tests.scripted_program import COMMAND, ROOT

FIRST_SECONDS = 5.0
GROWTH_BYTES = 60_000_000
STEP = 3000


def write_many(path: Path, count: int, group_rows: int = 50_000) -> None:
    schema = pa.schema([("title", pa.string()), ("image", pa.binary())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, group_rows):
            numbers = range(start, min(count, start + group_rows))
            columns = [[f"title {number}" for number in numbers], [draw(number) for number in numbers]]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=group_rows)


def run_until(command: Sequence[str | Path], rows: Path, count: int) -> tuple[float, int]:
    """Run until there are so many more rows, then kill it: seconds to the first one, and bytes in memory at the end."""
    before = count_lines(rows)
    began, first = time.monotonic(), 0.0
    program = subprocess.Popen([*COMMAND, *map(str, command)], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        while (lines := count_lines(rows)) < before + count:
            assert program.poll() is None, program.communicate()[1]
            if not first and lines > before:
                first = time.monotonic() - began
            time.sleep(0.05)
        status = Path(f"/proc/{program.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
    finally:
        program.send_signal(signal.SIGKILL)
        program.communicate()
    return first, resident


def count_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with open(path, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
def test_a_million_rows_stream_and_every_row_is_there_once_over_kills(tmp_path: Path) -> None:
    table, rows = tmp_path / "million.parquet", tmp_path / "rows.jsonl"
    write_many(table, int(os.environ.get("TABLE_ROWS", "1000000")))
    command = ("caption", "--from", table, "-o", rows, "--model", "idefics-9b", "--quiet")
    first, early = run_until(command, rows, STEP)
    assert first < FIRST_SECONDS
    run_until(command, rows, STEP)
    _, late = run_until(command, rows, 3 * STEP)
    assert late < early + GROWTH_BYTES, (early, late)
    ids = [row["id"] for row in read_whole(rows)]
    assert len(ids) == len(set(ids)) >= 5 * STEP
    assert set(ids) == {f"{table}#{number}" for number in range(1, len(ids) + 1)}


def read_whole(path: Path) -> list[dict[str, object]]:
    """The rows but for a last one that a kill cut off."""
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n") + 1])
    return read_rows(path)
