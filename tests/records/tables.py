"""Tables and shards of small pictures, made by other programs' writers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq


def draw(number: int) -> bytes:
    """A PNG of its own colour."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, count: int, *, group_rows: int = 5, as_struct: bool = False) -> Path:
    """`count` rows with a number, a title and an image."""
    images: list[Any] = [draw(number) for number in range(count)]
    if as_struct:  # as `datasets` writes them
        images = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
    columns = {
        "sku": [f"s{number}" for number in range(count)],
        "price": list(range(count)),
        "title": [f"title {number}" for number in range(count)],
        "image": images,
    }
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shard(path: Path, numbers: Iterable[int]) -> Path:
    """Samples as webdataset has them: an image, a text and an object each."""
    return write_tar(
        path,
        (
            member
            for number in numbers
            for member in (
                (f"{number:06d}.png", draw(number)),
                (f"{number:06d}.txt", f"text {number}\n".encode()),
                (f"{number:06d}.json", b'{"title": "title %d", "price": %d}' % (number, number)),
            )
        ),
    )
