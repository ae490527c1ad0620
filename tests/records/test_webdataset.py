"""Shards, written and read by webdataset's own library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from idefics_cli.values import Request
from tests.program import Run
from tests.records.tables import draw
from tests.review.rows import read_rows
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")
WRITE = """
import json, sys, webdataset
from pathlib import Path
folder = Path(sys.argv[1])
with webdataset.ShardWriter(f"{folder}/out-%02d.tar", maxcount=5, verbose=0) as shards:
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        shards.write({
            "__key__": f"day.d/{path.stem}" if number % 2 else path.stem,
            "png": path.read_bytes(), "txt": f"text {number}", "cls": number,
            "json": {"title": f"title {number}", "price": number},
        })
"""
READ = """
import sys, webdataset
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False, empty_check=False):
    names = sorted(name for name in sample if not name.startswith("__"))
    print(sample["__key__"], *names, sample["txt"].decode(), sample[names[1]].hex(), sample["json"].decode(), sep="\\t")
"""


def call(program: str, *arguments: Path) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def repeat_price(request: Request) -> str:
    return f" {Path(request.images[0]).name}"


def test_shards_that_it_wrote_are_read(run: Program, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.png").write_bytes(draw(number))
    call(WRITE, tmp_path)
    rows = tmp_path / "rows.jsonl"
    words = ("vqa", "-q", "$title at $price?", "--from", f"{tmp_path}/out-{{00..02}}.tar", "-o", rows)
    result = run(*words, "--where", "cls < 100", *MODEL, backend=ScriptedBackend(" ok"))
    assert result.code == 0, result.stderr
    names = [row["id"].rpartition("#")[2] for row in read_rows(rows)]
    assert names == [f"{'day.d/' * (number % 2)}{number:02d}.png" for number in range(12)]


def test_it_reads_shards_that_are_written(run: Program, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(draw(number))
    (tmp_path / "4.png").write_bytes(b"no image")
    rows, shard, again = tmp_path / "rows.jsonl", tmp_path / "rows.tar", tmp_path / "again.jsonl"
    images = sorted(tmp_path.glob("*.png"))
    run("caption", *images, "-o", rows, *MODEL, backend=ScriptedBackend(repeat_price))
    result = run("convert", rows, "--to", "webdataset")
    assert result.code == 1
    assert f"4 rows in {shard}, 1 left out" in result.stderr
    samples = [line.split("\t") for line in call(READ, shard).splitlines()]
    assert [sample[:5] for sample in samples] == [
        [f"{number + 1:07d}", "json", "png", "txt", f"{number}.png"] for number in range(4)
    ]
    assert [bytes.fromhex(sample[5]) for sample in samples] == [draw(number) for number in range(4)]
    assert [json.loads(sample[6])["images"] for sample in samples] == [[str(path)] for path in images[:4]]
    result = run("caption", "--from", shard, "-o", again, *MODEL, backend=ScriptedBackend(repeat_price))
    assert (result.code, len(read_rows(again))) == (0, 4), result.stderr
