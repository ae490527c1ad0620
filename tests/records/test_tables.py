"""Tables as inputs: what other programs wrote is read row by row, whatever is wrong in it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idefics_cli.values import Request
from tests.program import Run
from tests.records.tables import draw, write_parquet, write_shard, write_tar
from tests.review.rows import read_rows
from tests.scripted import ScriptedBackend
from tests.scripted_program import COMMAND, ROOT

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")
TITLED = """
name: titled
version: 1
description: Say what the title says.
fields: [title]
completion: {turn: [image, "The title is $title."]}
chat: {turn: [image, "$title?"]}
decoding: {max_new_tokens: 3}
"""


@pytest.fixture
def titled(tmp_path: Path) -> Path:
    path = tmp_path / "titled.yaml"
    path.write_text(TITLED)
    return path


def say_title(request: Request) -> str:
    return f" {dict(request.fields).get('title')}"


def ask(run: Program, *arguments: Any, reply: Any = say_title) -> tuple[Run, list[dict[str, Any]]]:
    result = run(*arguments, "--format", "jsonl", *MODEL, backend=ScriptedBackend(reply))
    return result, [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("as_struct", [False, True])
def test_parquet_gives_images_titles_and_ids(run: Program, tmp_path: Path, titled: Path, as_struct: bool) -> None:
    table = write_parquet(tmp_path / "data.parquet", 12, as_struct=as_struct)
    result, rows = ask(run, "run", titled, "--from", table)
    assert result.code == 0, result.stderr
    assert [row["text"] for row in rows] == [f"title {number}" for number in range(12)]
    assert rows[6]["images"] == [f"{table}#7"]
    result, rows = ask(run, "run", titled, "--from", table, "--id-column", "sku", "--where", "price >= 10")
    assert [(row["id"], row["text"]) for row in rows] == [("s10", "title 10"), ("s11", "title 11")]


def test_the_same_items_as_files_give_the_same_answers(run: Program, tmp_path: Path) -> None:
    """With the embedded model: bytes in a table, in a shard and in files, and names in a CSV."""
    samples = sorted((ROOT / "idefics_cli" / "shapes" / "samples").glob("*.png"))[:3]
    contents = [path.read_bytes() for path in samples]
    pq.write_table(pa.table({"img": contents}), tmp_path / "data.parquet")
    write_tar(tmp_path / "data.tar", [(f"{number}.png", one) for number, one in enumerate(contents)])
    (tmp_path / "data.csv").write_text("path\n" + "".join(f"{path}\n" for path in samples))
    ask_shapes = ("caption", "--model", "shapes", "--format", "jsonl")
    told = [
        [json.loads(line)["text"] for line in run(*ask_shapes, *more).stdout.splitlines()]
        for more in (samples, *(("--from", tmp_path / f"data.{kind}") for kind in ("parquet", "tar", "csv")))
    ]
    assert len(told[0]) == 3
    assert told == [told[0]] * 4


def test_csv_names_images_beside_it(run: Program, tmp_path: Path, titled: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(draw(0))
    (tmp_path / "in" / "data.csv").write_bytes(
        b'\xef\xbb\xbffile_name;title\r\na.png;"=1+1; two\nlines"\r\nb.png;x\0y\r\n\r\n'
        b'a.png;caf\xe9\r\na.png;;;4\r\na.png;"open'
    )
    result, rows = ask(run, "run", titled, "--from", tmp_path / "in" / "data.csv")
    assert result.code == 1
    assert [(row["text"], row["error"] and row["error"]["code"]) for row in rows] == [
        ("=1+1; two\nlines", None),
        (None, "not_found"),
        (None, "bad_item"),  # not UTF-8
        (None, "not_found"),  # more cells than columns
        ("open", None),
    ]
    assert rows[0]["images"] == [str(tmp_path / "in" / "a.png")]
    assert rows[1]["fields"] == {"title": "x\0y"}


def test_shards_are_samples_with_texts(run: Program, tmp_path: Path, titled: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"part-{number:03d}.tar", range(number * 4, number * 4 + 4))
    write_shard(tmp_path / "part-003.tar.gz", range(12, 14))
    result, rows = ask(run, "run", titled, "--from", f"{tmp_path}/part-{{000..002}}.tar", "--where", "price != 3")
    assert result.code == 0, result.stderr
    assert [row["text"] for row in rows] == [f"title {number}" for number in range(12) if number != 3]
    assert rows[0]["images"] == [f"{tmp_path}/part-000.tar#000000.png"]
    result, rows = ask(run, "run", titled, "--from", tmp_path / "part-003.tar.gz", "--id-column", "__key__")
    assert [row["id"] for row in rows] == ["000012", "000013"]


def test_hostile_shards_are_rows(run: Program, tmp_path: Path) -> None:
    import tarfile

    whole = write_shard(tmp_path / "whole.tar", range(20)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name, kind, target in [
            ("../../etc/evil.png", tarfile.REGTYPE, ""),
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "link.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
            ("only.txt", tarfile.REGTYPE, ""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    write_tar(tmp_path / "two.tar", [("a.left.png", draw(0)), ("a.right.png", draw(1)), ("b.left.png", draw(2))])
    (tmp_path / "none.tar").write_bytes(b"no tar" * 1000)
    result, rows = ask(run, "caption", "--from", f"{tmp_path}/{{bad,none,cut}}.tar", reply=" ok")
    assert result.code == 1
    assert [row["error"]["message"].rpartition(": ")[2] for row in rows[:6]] == [
        "its name leads out of the archive",
        *["is a link or a device in the archive, not a file"] * 3,
        "it has no image",
        f"{tmp_path}/none.tar is not a readable tar file",
    ]
    answered = [row for row in rows[6:] if row["error"] is None]
    assert [row["id"] for row in answered] == [
        f"{tmp_path}/cut.tar#{number:06d}.png" for number in range(len(answered))
    ]
    assert 8 < len(answered) < 15
    assert "the shard is damaged from here on" in rows[-1]["error"]["message"]
    assert run("caption", "--from", tmp_path / "none.tar", *MODEL, backend=ScriptedBackend()).code == 2
    result, rows = ask(run, "caption", "--from", tmp_path / "two.tar", reply=" ok")
    assert "has 2 images (left.png, right.png)" in rows[0]["error"]["message"]
    result, rows = ask(run, "caption", "--from", tmp_path / "two.tar", "--image-column", "left.png", reply=" ok")
    assert [row["images"] for row in rows] == [
        [f"{tmp_path}/two.tar#a.left.png"],
        [f"{tmp_path}/two.tar#b.left.png"],
    ]


def test_what_a_shard_says_of_itself_is_not_believed(run: Program, tmp_path: Path) -> None:
    import tarfile

    said = json.dumps({"png": "/etc/passwd", "title": "mine"}).encode()
    write_tar(tmp_path / "said.tar", [("a.png", draw(0)), ("a.json", said)])
    _, rows = ask(run, "caption", "--from", tmp_path / "said.tar", reply=" ok")
    assert [row["images"] for row in rows] == [[f"{tmp_path}/said.tar#a.png"]]
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, comment in (("a.png", "x"), ("b.png", "x" * 3_000_000)):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(draw(0)), {"comment": comment}
            tar.addfile(member, io.BytesIO(draw(0)))
    result, rows = ask(run, "caption", "--from", tmp_path / "long.tar", reply=" ok")
    assert result.code == 1
    assert "a header has more than 1,000,000 bytes" in rows[-1]["error"]["message"]
    assert len(rows) == 1


def test_images_that_are_damaged_are_rows_and_the_next_group_is_read(run: Program, tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "data.parquet", 30, group_rows=10)
    content = bytearray(table.read_bytes())
    chunk = pq.ParquetFile(table).metadata.row_group(1).column(3)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    table.write_bytes(content)
    result, rows = ask(run, "caption", "--from", table, reply=" ok")
    assert result.code == 1
    assert [row["error"]["code"] for row in rows if row["error"]] == ["not_an_image"] * 10
    good = [row["id"] for row in rows if row["error"] is None]
    assert good == [f"{table}#{number}" for number in (*range(1, 11), *range(21, 31))]


def test_statistics_are_not_believed(run: Program, tmp_path: Path) -> None:
    """A file that says that no price is above 11 has one all the same."""
    table = write_parquet(tmp_path / "data.parquet", 12, group_rows=12)
    content = table.read_bytes()
    eleven = (11).to_bytes(8, "little")
    end = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - end :]
    assert eleven in footer
    table.write_bytes(content[: -8 - end] + footer.replace(eleven, (3).to_bytes(8, "little")))
    assert pq.ParquetFile(table).metadata.row_group(0).column(1).statistics.max == 3
    _, rows = ask(run, "caption", "--from", table, "--where", "price > 9", reply=" ok")
    assert [row["id"] for row in rows] == [f"{table}#11", f"{table}#12"]


def test_what_cannot_be_meant_is_one_line(run: Program, tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "data.parquet", 3)
    (tmp_path / "not.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "wide.csv").write_text("a,b\n1,2\n", encoding="utf-16")
    (tmp_path / "plain.csv").write_text("a,b\n1,2\n")
    for arguments, code, words in [
        (("--from", tmp_path / "gone.parquet"), 2, "cannot read"),
        (("--from", tmp_path / "not.parquet"), 2, "is not a readable Parquet file"),
        (("--from", tmp_path / "empty.csv"), 2, "is empty"),
        (("--from", tmp_path / "wide.csv"), 2, "is UTF-16"),
        (("--from", tmp_path / "plain.csv"), 2, "--image-column: a, b"),
        (("--from", tmp_path / "plain.xlsx"), 2, "does not have the suffix of a table"),
        (("--from", table, "--image-column", "picture"), 2, "has no column 'picture'"),
        (("--from", table, "--where", "cost = 1"), 2, "has no column 'cost'"),
        (("--from", table, "--where", "cheap"), 2, "is not a condition"),
        (("--from", table, "--where", "price > 5"), 4, "no row"),
        (("--from", table, tmp_path), 2, "--from already names the images"),
        (("--from", table, "--together"), 2, "--together"),
        (("--from", table, "--sidecar", ".txt"), 2, "there is no place for a sidecar"),
        (("--where", "a = 1", tmp_path), 2, "--where needs a table"),
        (("--from", "gs://bucket/data.parquet"), 2, "pip install 'idefics-cli[gs]'"),
    ]:
        backend = ScriptedBackend()
        result = run("caption", *arguments, *MODEL, backend=backend)
        assert (result.code, result.stderr.count("\n"), backend.requests) == (code, 1, []), (
            arguments,
            result,
        )
        assert words in result.stderr, (arguments, result.stderr)


def test_groups_of_rows_are_shared_and_merged(run: Program, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 12)
    write_parquet(tmp_path / "b.parquet", 4)
    parts = [tmp_path / f"part{number}.jsonl" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        command = ("caption", "--from", f"{tmp_path}/{{a,b}}.parquet", "--shard", f"{number}/2", "-o", part)
        assert run(*command, *MODEL, backend=ScriptedBackend()).code == 0
    assert [len(read_rows(part)) for part in parts] == [7, 9]
    merged = run("merge", *parts, "-o", tmp_path / "all.jsonl")
    assert merged.code == 0, merged.stderr
    every = [f"{tmp_path}/{name}.parquet#{n}" for name, count in (("a", 12), ("b", 4)) for n in range(1, count + 1)]
    assert [row["id"] for row in read_rows(tmp_path / "all.jsonl")] == every
    lone = [
        run(
            *("caption", "--from", tmp_path / "b.parquet", "--shard", f"{number}/2", *MODEL),
            backend=ScriptedBackend(),
        )
        for number in (1, 2)
    ]
    # Too few groups: rows are shared one by one, by their names, so a part may have none.
    assert sum(len(part.stdout.splitlines()) for part in lone) == 4


def test_a_run_goes_on_where_it_was_and_reads_no_image_again(run: Program, tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "data.parquet", 10)
    rows = tmp_path / "rows.jsonl"
    command = ("caption", "--from", table, "-o", rows, *MODEL)
    stopped = run(*command, "--max-errors", "3", backend=ScriptedBackend(fail_from(4)))
    assert stopped.code == 1
    backend = ScriptedBackend(" ok")
    assert run(*command, "--existing", "retry-errors", backend=backend).code == 0
    assert [row["id"] for row in sorted(read_rows(rows), key=lambda row: int(row["id"].split("#")[1]))] == [
        f"{table}#{number}" for number in range(1, 11)
    ]
    assert len(backend.requests) == 7


def fail_from(first: int) -> Callable[[Request], Any]:
    from idefics_cli.errors import AnswerError

    def reply(request: Request) -> Any:
        number = int(request.id.rpartition("#")[2])
        return " ok" if number < first else AnswerError("no memory", code="out_of_memory")

    return reply


def test_rows_of_tables_can_be_looked_at_again(run: Program, tmp_path: Path) -> None:
    """A folder to train from has the images of Parquet, whichever column they are in, and of shards."""
    table = write_parquet(tmp_path / "data.parquet", 7)
    both = pq.read_table(table)
    both = both.append_column("other", pa.array([draw(100 + number) for number in range(7)]))
    pq.write_table(both, table, row_group_size=3)
    shard = write_shard(tmp_path / "data.tar", range(3))
    for source, more, first in [(table, (), 0), (table, ("--image-column", "other"), 100), (shard, (), 0)]:
        folder = tmp_path / f"train-{source.suffix[1:]}-{first}"
        command = ("caption", "--from", source, *more, "--format", "imagefolder", "-o", folder)
        result = run(*command, *MODEL, backend=ScriptedBackend())
        assert result.code == 0, result.stderr
        copies = sorted((folder / "images").iterdir())
        assert [path.read_bytes() for path in copies] == [draw(first + n) for n in range(len(copies))]
        assert len(copies) in (3, 7)


def test_nothing_of_tables_is_imported_for_files(red_circle: Path) -> None:
    code = (
        "import sys; sys.argv = ['idefics', 'caption', sys.argv[1], '--model', 'idefics-9b'];"
        "from tests.scripted import ScriptedBackend; from idefics_cli.cli.ask import open_with;"
        "from idefics_cli.cli.app import execute; open_with.set(ScriptedBackend().open);"
        "assert execute(sys.argv[1:]) == 0;"
        "bad = {'pyarrow', 'fsspec', 'lance', 's3fs', 'pypdfium2', 'tarfile', 'idefics_cli.records.csv_table'};"
        "assert not bad & set(sys.modules), bad & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(red_circle)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_table_is_asked_about_without_being_run(run: Program, tmp_path: Path, titled: Path) -> None:
    table = write_parquet(tmp_path / "data.parquet", 2)
    result = run("run", titled, "--from", table, "--dry-run", "--model", "shapes")
    assert result.code == 0, result.stderr
    assert "The title is title 1." in result.stdout


assert COMMAND
