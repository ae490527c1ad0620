"""Rows as a shard to train from: a tar of samples, as webdataset reads it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ..images import Limits
from ..jsonl import dump_row
from .columns import TableColumn, flatten
from .image_copy import read_sample


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
