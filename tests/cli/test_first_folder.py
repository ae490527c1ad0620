"""A folder as people have them: 376 files, most of them photos, asked about with the embedded checkpoint."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import PIL.Image
import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "idefics_cli" / "shapes" / "samples"
BAD = {"cut": 12, "empty": 8, "page": 6, "pointer": 4, "huge": 4, "heic": 6}
FINE = {"photo": 300, "clear": 6, "print": 6, "deep": 4, "moving": 2}
SKIPPED = {".CR2": 4, ".NEF": 3, ".dng": 3, ".mp4": 4, ".MOV": 4}


def make_png(width: int, height: int) -> bytes:
    """A PNG that says it is so large."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    told = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(told)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    shapes = [PIL.Image.open(SAMPLES / f"{name}.png").convert("RGB") for name in ("red-circle", "blue-star")]
    for number in range(FINE["photo"]):
        suffix = ("jpg", "png", "webp", "JPG", "jpeg")[number % 5]
        shapes[number % 2].save(folder / f"photo-{number:03}.{suffix}")
    photo = (folder / "photo-000.jpg").read_bytes()
    pixels = (64, 64)
    content = {
        "cut": photo[: len(photo) // 2],
        "empty": b"",
        "page": b"<!doctype html><html>404</html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
        "huge": make_png(60_000, 60_000),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    }
    for kind, count in BAD.items():
        for number in range(count):
            (folder / f"{kind}-{number}.{'HEIC' if kind == 'heic' else 'jpg'}").write_bytes(content[kind])
    for number in range(FINE["clear"]):
        PIL.Image.new("RGBA", pixels, (0, 0, 0, 0)).save(folder / f"clear-{number}.png")
    for number in range(FINE["print"]):
        PIL.Image.new("CMYK", pixels).save(folder / f"print-{number}.jpg")
    for number in range(FINE["deep"]):
        PIL.Image.new("I;16", pixels).save(folder / f"deep-{number}.png")
    for number in range(FINE["moving"]):
        PIL.Image.new("RGB", pixels).save(
            folder / f"moving-{number}.gif",
            save_all=True,
            append_images=[PIL.Image.new("RGB", pixels, "red")],
        )
    for suffix, count in SKIPPED.items():
        for number in range(count):
            (folder / f"raw-{number}{suffix}").write_bytes(b"II*\0" + bytes(100))
    assert len(list(folder.iterdir())) == 376
    return folder


def ask(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "idefics_cli", *map(str, words), "--model", "shapes"]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads of busy cores wait for each other
    return subprocess.run(command, cwd=ROOT, env=one_core, capture_output=True, text=True, check=False)


def test_a_folder_of_376_files_is_told_of_in_twelve_lines(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    done = ask("caption", folder, "-o", rows)
    told = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(told) <= 12, done.stderr
    for suffix, count in SKIPPED.items():
        assert f"{suffix} {count}" in done.stderr
    bad, fine = sum(BAD.values()), sum(FINE.values())
    not_images = bad - BAD["huge"]
    counts = f"{fine} answered, {bad} of {bad + fine} failed ({not_images} not images, 4 too large)"
    assert counts in told[-2]
    assert "transparent areas were put on white: 6" in told[-2]
    assert "16-bit values were reduced to 8 bits: 4" in told[-2]
    assert sum("error:" in line for line in told) == 5
    lister, _, ending = told[-1].removeprefix("idefics: ").partition(" lists what failed and why")
    assert ending == ""
    listed = subprocess.run(["sh", "-c", lister], capture_output=True, text=True, check=True).stdout.splitlines()
    kinds = Counter(Path(line.split("\t")[0]).name.partition("-")[0] for line in listed)
    assert kinds == BAD
    assert all(line.split("\t")[1] for line in listed)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {row["text"] for row in found if "photo-" in row["id"]} == {
        "A red circle on a white background.", "A blue star on a yellow background.",
    }  # fmt: skip

    again = ask("caption", folder, "-o", rows)
    assert len(again.stderr.splitlines()) <= 3, again.stderr
    assert f"{fine} done before, {bad} failed before ({not_images} not images, 4 too large;" in again.stderr
