"""Rows as a folder to train from: copies of their images, and `metadata.jsonl` as `datasets` reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_all
from ..images import Limits
from ..jsonl import dump_row
from .columns import TableColumn, flatten
from .image_copy import read_sample

METADATA, IMAGES = "metadata.jsonl", "images"


class ImageFolder:
    """An image and a line for each answered row. Each row without exactly one image to copy is left out."""

    def __init__(self, folder: Path, columns: Sequence[TableColumn], limits: Limits) -> None:
        (folder / IMAGES).mkdir()
        self._folder, self._limits = folder, limits
        self._columns = [column for column in columns if column.name != "images"]
        self._lines = os.open(folder / METADATA, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._count = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ItemError for a row that cannot be in it."""
        bare, content = read_sample(row, self._limits)
        self._count += 1
        name = f"{IMAGES}/{self._count:07d}-{bare}"
        (self._folder / name).write_bytes(content)
        cells = flatten(row)
        line = {"file_name": name} | {column.name: column.read(cells) for column in self._columns}
        write_all(self._lines, f"{dump_row(line)}\n".encode())

    def finish(self) -> None:
        os.close(self._lines)
