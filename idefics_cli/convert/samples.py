"""Rows to train from, with copies of their images: a folder with `metadata.jsonl` as `datasets` reads it, or a tar of
samples as webdataset reads it.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import BadItem, SourceError
from ..files import name_kind, write_all
from ..images import Limits, has_image_suffix, name_source, read
from ..jsonl import dump_row
from ..review.summary import read_sources
from .columns import TableColumn, flatten

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
)
METADATA, IMAGES = "metadata.jsonl", "images"


def read_sample(row: Mapping[str, Any], limits: Limits) -> tuple[str, bytes]:
    """The name of the copy of an answered row's image, and its bytes. Raises ItemError for a row that is no sample to
    train from.
    """
    if row.get("error") is not None:
        raise BadItem("it failed, so there is nothing to learn from it")
    sources = read_sources(row)
    if len(sources) != 1:
        raise BadItem(f"it has {len(sources)} images, but a sample has one")
    source = sources[0]
    try:
        data = read(source, limits)
        if isinstance(data, Path):
            if (kind := name_kind(os.stat(data).st_mode)) is not None:
                raise SourceError(f"{name_source(source)} is {kind}", code="not_an_image")
            data = data.read_bytes()
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        raise SourceError(f"{name_source(source)} can no longer be read", code="not_found") from None
    return _name_copy(source, data[:16]), data


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


class WebdatasetTar:
    """An image, its text and the row for each answered row. Each row without exactly one image to copy is left out."""

    def __init__(self, file: IO[bytes], columns: Sequence[TableColumn], limits: Limits) -> None:
        self._columns, self._limits = columns, limits
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # `finish` closes it
        self._count = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ItemError for a row that cannot be in it."""
        name, content = read_sample(row, self._limits)
        self._count += 1
        cells = flatten(row)
        told = {column.name: column.read(cells) for column in self._columns}
        self._add(name.rpartition(".")[2], content)
        self._add("txt", str(row.get("text") or "").encode())
        self._add("json", dump_row(told).encode())

    def finish(self) -> None:
        self._tar.close()

    def _add(self, extension: str, content: bytes) -> None:
        member = tarfile.TarInfo(f"{self._count:07d}.{extension}")
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


def _name_copy(source: str, head: bytes) -> str:
    """A name that is safe on every file system and in a shell, with the suffix of the format."""
    bare = "image" if source[:5].lower() == "data:" else re.split("[?#]", source)[0]
    stem, suffix = os.path.splitext(os.path.basename(bare))
    if not has_image_suffix(f"x{suffix}"):
        suffix = next((found for start, found in _SUFFIXES if head.startswith(start)), "")
    if not suffix:
        raise SourceError(f"{name_source(source)} has an unknown image format", code="not_an_image")
    return f"{_UNSAFE.sub('_', stem)[:80]}{suffix.lower()}"
