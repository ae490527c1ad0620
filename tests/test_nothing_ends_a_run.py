"""Files, lines and calls that once ended a run, each between good ones: every good one is answered, in order."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.images.test_bounds import of_frames, of_scans
from tests.models.tiny import checkpoint, picture
from tests.program import run_program
from tests.prompts.test_decoding_ranges import REFUSED
from tests.serve.running import running

MODEL = ("--model", str(checkpoint("idefics2")))
SHORT = ("--max-new-tokens", "4")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def one_bit_png(width: int, height: int) -> bytes:
    """Of few bytes, and many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def write_palette_without_colours(path: Path) -> None:
    """A PNG whose colours are in a table that is not there."""
    head = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    rows = zlib.compress(b"\0" * 9 * 8)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def write_noise(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    picture(size[0] + size[1], size).pixels.save(path)


def write_truncated(path: Path) -> None:
    write_noise(path)
    path.write_bytes(path.read_bytes()[:200])


def bind(path: Path) -> None:
    """A socket. Its name is short, so it is made from within its folder."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


ODD_NAMES: tuple[str | bytes, ...] = (
    "a" * 247 + ".png",
    "\x1b[2J\u202e.png",
    "#1.png",
    "data:x.png",
    b"caf\xe9 \n.png",
    "nobody~.png",
)
"""Names that were taken for something else, or could not have a file beside them."""
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "palette": (write_palette_without_colours, "not_an_image"),
    "io": (lambda path: path.symlink_to("/proc/self/mem"), "not_found"),
    "dot": (lambda path: write_noise(path, (1, 1)), "unusable_image"),
    "truncated": (write_truncated, "not_an_image"),
    "empty": (lambda path: path.touch(), "not_an_image"),
    "text": (lambda path: path.write_text("<html>"), "not_an_image"),
    "pipe": (lambda path: os.mkfifo(path), "not_an_image"),
    "socket": (bind, "not_an_image"),
    "loop": (lambda path: path.symlink_to(path.name), "not_found"),
    "nowhere": (lambda path: path.symlink_to("nowhere"), "not_found"),
    "scans": (lambda path: path.write_bytes(of_scans()), "timeout"),
    "frames": (lambda path: path.write_bytes(of_frames()), "unusable_image"),
    "bomb": (lambda path: path.write_bytes(one_bit_png(60_000, 60_000)), "too_large"),
    "folder": (lambda path: path.mkdir(), ""),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Bad files, each between two good ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (name, (make, _)) in enumerate(BAD.items()):
        write_noise(folder / f"{number:02}-a.png", (30 + number, 30))
        make(folder / f"{number:02}-{name}.png")
    write_noise(folder / "99.png")
    for odd in ODD_NAMES:
        write_noise(folder / os.fsdecode(odd))
    return folder


def list_codes(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["error"] and row["error"]["code"] for row in rows]


def test_a_folder_of_them(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    words = ("--decode-timeout", "2", *SHORT, *MODEL)
    run = run_program("caption", folder, "--output", out, *words)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert run.code == 1, run.stderr
    expected: dict[str, str | None] = dict.fromkeys([*map(os.fsdecode, ODD_NAMES), "99.png"])
    for number, (name, (_, code)) in enumerate(BAD.items()):
        expected[f"{number:02}-a.png"] = None
        if code:
            expected[f"{number:02}-{name}.png"] = code
    names = sorted(expected, key=os.fsencode)
    assert list_codes(rows) == [expected[name] for name in names]
    assert [row["id"] for row in rows] == [
        str(folder / name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names
    ]
    good = [folder / name for name in names if expected[name] is None]
    alone = run_program("caption", *good, "--format", "jsonl", *words)
    texts = [json.loads(line)["text"] for line in alone.stdout.splitlines()]
    assert [row["text"] for row in rows if row["error"] is None] == texts
    assert "internal" not in run.stderr
    assert all(ord(letter) >= 32 or letter == "\n" for letter in run.stderr)
    beside = run_program("caption", folder, "--sidecar", ".txt", "--sidecar-name", "full", *words)
    assert beside.code == 1, beside.stderr
    assert all(path.with_name(f"{path.name}.txt").read_text() for path in good[:-1] if len(path.name) < 200)


def list_lines(good: str) -> list[dict[str, Any]]:
    """Bad items, each after a good one."""
    fine = {"task": "caption", "image": good, "max_new_tokens": 3}
    bad: list[dict[str, Any]] = [{"task": "caption", "image": good, name: value} for name, value, _ in REFUSED]
    bad += [
        {"template": "x" * 300, "image": good},
        {"template": "x" * 300 + ".yaml", "image": good},
        {"task": "caption", "image": "x" * 300},
        {"task": "caption", "image": "a\0b"},
        {"task": "classify", "image": good, "labels": ["x", "x"]},
        {"task": "vqa", "image": good, "question": "</s>"},
        {"task": "vqa", "image": good, "question": "dog " * 2000},
        {"task": "caption", "image": good, "decoding": {"temperature": "hot"}},
    ]
    return [line for one in bad for line in (fine, one)] + [fine]


BROKEN = (
    b"{",
    b"[]",
    b"null",
    b"7",
    b"\xff",
    b"\0" * 100,
    b'{"task": "caption", "image": "good.png", "seed": NaN}',
    b'{"task": "caption", "image": "good.png", "image": "good.png"}',
    b'{"task": "vqa", "image": "good.png", "question": "\\ud83d"}',
    b'{"task": "caption", "image": "good.png", "seed": ' + b"9" * 5000 + b"}",
    b'{"task": "caption", "image": "good.png", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
)
"""Lines that are no items, or no JSON."""


def test_a_batch_of_them(tmp_path: Path) -> None:
    write_noise(tmp_path / "good.png")
    lines = list_lines("good.png")
    items = tmp_path / "items.jsonl"
    fine = json.dumps(lines[0])
    torn = [line for one in BROKEN for line in (one, fine.encode())]
    items.write_bytes(b"".join(line + b"\n" for line in [*(json.dumps(line).encode() for line in lines), *torn]))
    run = run_program("batch", items, *MODEL)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.code == 1, run.stderr
    count = len(lines) + len(torn)
    assert [row["id"] for row in rows] == [f"line {number}" for number in range(1, count + 1)]
    assert [code is None for code in list_codes(rows)] == [number % 2 == 0 for number in range(count)]
    assert "internal" not in list_codes(rows)
    assert len({row["text"] for row in rows[::2]}) == 1


def test_the_same_over_http(folder: Path) -> None:
    def as_url(path: Path) -> str:
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"

    good = as_url(folder / "99.png")
    items: list[Any] = list_lines(good)
    none: list[Any] = [[], None, 7, "x", {str(number): 1 for number in range(2000)}]
    items += [item for one in none for item in (one, items[0])]
    for path in sorted(folder.iterdir()):
        is_slow = path.name.endswith("-scans.png")
        if path.is_file() and path.resolve().parent == folder and not is_slow:
            items += [
                {"task": "caption", "image": as_url(path), "max_new_tokens": 3},
                {"task": "caption", "image": good, "max_new_tokens": 3},
            ]
    with running(*MODEL) as server:
        status, rows = server.ask("/v1/requests", items)
        assert (status, len(rows)) == (200, len(items)), rows
        count = len(list_lines(good)) + 10
        assert [code is None for code in list_codes(rows)[:count]] == [n % 2 == 0 for n in range(count)]
        assert "internal" not in list_codes(rows), server.log.read_text()
        assert "unusable_image" in list_codes(rows)
        dot = {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": as_url(folder / "02-dot.png")}}],
        }
        status, said = server.ask("/v1/chat/completions", {"model": MODEL[1], "messages": [dot]})
        assert (status, said["error"]["code"]) == (400, "unusable_image")
        assert server.ask("/health")[0] == 200
        assert "Traceback" not in server.log.read_text()


def test_an_image_of_one_pixel_is_one(tmp_path: Path) -> None:
    """What the processor of one model cannot take, another one can."""
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    run = run_program("caption", tmp_path / "dot.png", *SHORT, "--model", checkpoint("idefics3"))
    assert run.code == 0, run.stderr
