"""Long runs (`make soak`): 10,000 images of which some are broken in twenty ways, and how busy the model is kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy
import PIL.Image
import pytest

from idefics_cli.errors import ItemError
from idefics_cli.images import Limits
from idefics_cli.runner.run import Report, run
from idefics_cli.values import Answer, Image, ImagePart, Item, Message, Request
from tests.scripted import ScriptedBackend
from tests.scripted_program import ROOT

pytestmark = pytest.mark.slow


def encode(kind: str, size: int = 64) -> bytes:
    noise = numpy.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=numpy.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header says 100,000 x 100,000 pixels."""
    data = bytearray(encode("PNG"))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _write(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def break_in_twenty_ways() -> list[tuple[Callable[[Path], None], str]]:
    """How a file is broken, and the code of its row."""
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    ways: list[tuple[Callable[[Path], None], str]] = [
        (_write(encode(kind)[: len(encode(kind)) // part]), "not_an_image") for kind in kinds for part in (2, 40)
    ]
    ways += [
        (lambda path: path.touch(), "not_an_image"),
        (_write(b"<html><body>404</body></html>"), "not_an_image"),
        (_write(b"%PDF-1.7 no image"), "not_an_image"),
        (_write(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not_an_image"),
        (_write(os.urandom(3000)), "not_an_image"),
        (_write(bomb()), "too_large"),
        (lambda path: os.mkfifo(path), "not_an_image"),
        (lambda path: path.symlink_to("nowhere"), "not_found"),
    ]
    assert len(ways) == 20
    return ways


DRIVER = """
import sys
from tests.scripted import ScriptedBackend
from idefics_cli.cli.app import execute
from idefics_cli.cli.ask import open_with
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
class Measured(ScriptedBackend):
    answered, early, most = 0, 0, 0
    def answer(self, requests, images, on_text=None):
        answers = super().answer(requests, images, on_text)
        self.requests.clear(), self.windows.clear(), self.images.clear()
        self.answered += len(requests)
        if self.answered <= 500:
            self.early = max(self.early, resident())
        self.most = max(self.most, resident())
        return answers
backend = Measured()
open_with.set(backend.open)
code = execute(sys.argv[1:])
print(code, (backend.most - backend.early) * 1024)
"""


def test_ten_thousand_images_of_which_five_in_a_hundred_are_broken(tmp_path: Path) -> None:
    ways = break_in_twenty_ways()
    folder = tmp_path / "in"
    folder.mkdir()
    good = [encode("PNG"), encode("JPEG"), encode("JPEG", 300)]
    expected: dict[str, str] = {}
    for number in range(10_000):
        path = folder / f"{number:05}.jpg"
        if number % 20 == 10:
            make, expected[str(path)] = ways[number // 20 % 20]
            make(path)
        else:
            path.write_bytes(good[number % 3])
    command = ["caption", str(folder), "--model", "idefics-9b", "-o", str(tmp_path / "out.jsonl")]
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, growth = map(int, result.stdout.split())
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    failed = {row["id"]: row["error"]["code"] for row in rows if row["error"]}
    sys.stdout.write(f"\nmemory grew by {growth / 1e6:.1f} MB after the first 500; {Counter(failed.values())}\n")
    assert (code, len(rows), failed) == (1, 10_000, expected)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert growth <= 50_000_000
    shutil.rmtree(folder)


class Busy(ScriptedBackend):
    """Takes 25 ms for a request, as a fast model on a GPU would, and counts how long it was at work."""

    seconds = 0.0

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer | ItemError]:
        time.sleep(0.025 * len(requests))
        self.seconds += 0.025 * len(requests)
        return [Answer(" fine") for _ in requests]


def test_the_model_is_kept_busy_by_files_on_disk(tmp_path: Path) -> None:
    """From the first request on: photos of two megapixels."""
    photo = encode("JPEG", 1448)
    items = []
    for number in range(400):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(photo)
        items.append(Item(str(number), (str(path),)))

    def compose(item: Item) -> Request:
        return Request(item.id, "caption", (Message("document", tuple(map(ImagePart, item.images))),))

    backend = Busy()
    began = time.monotonic()
    count = sum(1 for _ in run(items, compose, backend, Report(model="m"), limits=Limits()))
    share = backend.seconds / (time.monotonic() - began)
    sys.stdout.write(f"\nthe model was at work {share:.1%} of the run\n")
    assert count == 400
    assert share >= 0.95
