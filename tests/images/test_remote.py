"""Images in archives and behind file:// URLs, through the drivers that come with the program."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.errors import SourceError
from idefics_cli.images import Limits, load
from tests.hub import open_hub, run_lines
from tests.program import Run
from tests.records.tables import draw
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number, name in enumerate(("a.png", "b.png", "note.txt", "sub/c.png", "sub/deep/d.png", "../e.png")):
            file.writestr(name, draw(number) if name.endswith("png") else "text")
    return path


def ask(run: Program, *arguments: Any) -> tuple[Run, list[dict[str, Any]]]:
    result = run("caption", *arguments, "--format", "jsonl", *MODEL, backend=ScriptedBackend(" ok"))
    return result, [json.loads(line) for line in result.stdout.splitlines()]


def test_folders_patterns_and_lists_in_an_archive(run: Program, archive: Path, tmp_path: Path) -> None:
    tail = f"::{archive}"
    for arguments, names in [
        ((f"zip://a.png{tail}",), ["a.png"]),
        ((f"zip://{tail}",), ["a.png", "b.png"]),
        ((f"zip://{tail}", "-r"), ["a.png", "b.png", "sub/c.png", "sub/deep/d.png"]),
        ((f"zip://sub{tail}", "-r"), ["sub/c.png", "sub/deep/d.png"]),
        ((f"zip://**/d.png{tail}",), ["sub/deep/d.png"]),
        ((f"zip://*.png{tail}",), ["a.png", "b.png"]),
    ]:
        result, rows = ask(run, *arguments)
        assert result.code == 0, result.stderr
        assert [row["id"] for row in rows] == [f"zip://{name}{tail}" for name in names], arguments
    (tmp_path / "list.txt").write_text(f"zip://a.png{tail}\nzip://gone.png{tail}\nzip://a.png::{tmp_path}/no.zip\n")
    result, rows = ask(run, "--files-from", tmp_path / "list.txt")
    assert result.code == 1
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "not_found", "not_found"]


def test_files_by_their_url(run: Program, tmp_path: Path) -> None:
    folder = tmp_path / "day two"
    folder.mkdir()
    (folder / "a b.png").write_bytes(draw(0))
    for url in (f"file://{folder}/a%20b.png", f"file://localhost{folder}"):
        result, rows = ask(run, url.replace(" ", "%20"))
        assert result.code == 0, result.stderr
        assert [row["images"] for row in rows] == [[str(folder / "a b.png")]]


def test_an_archive_that_unpacks_without_end_stays_within_its_limits(tmp_path: Path) -> None:
    """A member of a gigabyte of zeros in a megabyte, and one whose header lies about its size."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("bomb.png", "w") as member:
        for _ in range(200):
            member.write(bytes(1_000_000))
    limits = Limits(max_bytes=1_000_000)
    with pytest.raises(SourceError) as caught:
        load(f"zip://bomb.png::{path}", limits)
    assert caught.value.code == "too_large"
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 100)
    content[place + 16 : place + 20] = struct.pack("<I", zlib.crc32(bytes(100)))
    path.write_bytes(content)
    with pytest.raises(SourceError):
        load(f"zip://bomb.png::{path}", limits)


def test_what_is_no_archive_or_leads_elsewhere_is_a_row(run: Program, tmp_path: Path, archive: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"no archive")
    for url, code, words in [
        (f"zip://a.png::{tmp_path}/no.zip", "fetch_failed", "cannot be read"),
        ("zip://a.png::http://127.0.0.1:9/a.zip", "refused", "leads to a http: URL"),
        ("s4://bucket/a.png", "refused", "has a scheme that is not read"),
        ("gs://bucket/a.png", "refused", "pip install 'idefics-cli[gs]'"),
        ("abfs://container@account.dfs.core.windows.net/a.png", "refused", "pip install 'idefics-cli[az]'"),
    ]:
        result, rows = ask(run, url)
        assert (result.code, len(rows)) == (1, 1), url
        assert (rows[0]["error"]["code"], words in rows[0]["error"]["message"]) == (code, True), rows[0]
    result, rows = ask(run, f"zip://a.png::{archive}", "--no-private-addresses")
    assert rows[0]["error"]["code"] == "refused"


def test_the_hub_is_not_asked_offline() -> None:
    names = ("hf://datasets/a/b/a.parquet", "hf://datasets/a/b")
    with open_hub() as hub:
        for told in run_lines(hub.url, *(["caption", "--from", name, "--offline", *MODEL] for name in names)):
            assert (told.code, hub.asked) == (2, []), told
            assert "cannot be read offline; leave out --offline and HF_HUB_OFFLINE" in told.stderr
