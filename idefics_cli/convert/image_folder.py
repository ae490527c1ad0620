"""Rows as a folder to train from: copies of their images, and `metadata.jsonl` as `datasets` reads it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadItem, SourceError
from ..files import name_kind, write_all
from ..images import Limits, has_image_suffix, name_source, read
from ..jsonl import dump_row
from ..review.summary import read_sources
from .columns import TableColumn, flatten

METADATA, IMAGES = "metadata.jsonl", "images"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
)


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
        if row.get("error") is not None:
            raise BadItem("it failed, so there is nothing to learn from it")
        sources = read_sources(row)
        if len(sources) != 1:
            raise BadItem(f"it has {len(sources)} images, but a line of {METADATA} names one")
        self._count += 1
        name = f"{IMAGES}/{self._copy(sources[0])}"
        cells = flatten(row)
        line = {"file_name": name} | {column.name: column.read(cells) for column in self._columns}
        write_all(self._lines, f"{dump_row(line)}\n".encode())

    def finish(self) -> None:
        os.close(self._lines)

    def _copy(self, source: str) -> str:
        """Copy an image; the name of the copy says which row it is of."""
        data = read(source, self._limits)
        try:
            if isinstance(data, Path):
                if (kind := name_kind(os.stat(data).st_mode)) is not None:
                    raise SourceError(f"{name_source(source)} is {kind}", code="not_an_image")
                with open(data, "rb") as stream:
                    head = stream.read(16)
            else:
                head = data[:16]
            name = f"{self._count:07d}-{_name_copy(source, head)}"
            if isinstance(data, Path):
                shutil.copyfile(data, self._folder / IMAGES / name)
            else:
                (self._folder / IMAGES / name).write_bytes(data)
        except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
            raise SourceError(f"{name_source(source)} can no longer be read", code="not_found") from None
        return name


def _name_copy(source: str, head: bytes) -> str:
    """A name that every file system and shell can have, with a suffix that says the format."""
    bare = "image" if source[:5].lower() == "data:" else re.split("[?#]", source)[0]
    stem, suffix = os.path.splitext(os.path.basename(bare))
    if not has_image_suffix(f"x{suffix}"):
        suffix = next((found for start, found in _SUFFIXES if head.startswith(start)), "")
    if not suffix:
        raise SourceError(f"{name_source(source)} has an unknown image format", code="not_an_image")
    return f"{_UNSAFE.sub('_', stem)[:80]}{suffix.lower()}"
