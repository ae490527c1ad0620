"""Rows as metadata of photos: a folder of XMP files, or the list that `exiftool -json=` writes into them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import BadItem
from ..files import write_file
from ..images import is_url, split_member
from ..jsonl import dump_row
from ..results.sidecars import list_keywords
from ..results.xmp import Metadata, write_packet
from ..review.summary import read_sources
from .columns import TableColumn


class XmpFolder:
    """cat.xmp for cat.jpg, in the folders that the images are in: to be copied over them."""

    def __init__(self, folder: Path, columns: Sequence[TableColumn]) -> None:
        self._folder = folder

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ItemError for a row that is not about one file, or whose XMP file is already written."""
        source, text = read_answer(row)
        name = os.path.relpath(source) if os.path.isabs(source) else os.path.normpath(source)
        if name.startswith(".."):
            name = os.path.basename(name)
        target = self._folder / f"{os.path.splitext(name)[0]}.xmp"
        if target.exists():
            raise BadItem(f"{os.path.splitext(name)[0]}.xmp was already written for another row")
        target.parent.mkdir(parents=True, exist_ok=True)
        keywords = list_keywords(row.get("label"), row.get("data"))
        write_file(target, write_packet(None, Metadata(text, keywords)))

    def finish(self) -> None:
        """Every row is already written."""


class ExiftoolList:
    """One JSON list, of an object for each image, with the names of tags that exiftool knows."""

    def __init__(self, file: IO[bytes], columns: Sequence[TableColumn]) -> None:
        self._file = file
        self._begin = b"["

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ItemError for a row that is not about one file."""
        source, text = read_answer(row)
        tags: dict[str, Any] = {
            "SourceFile": source,
            "XMP-dc:Description": text,
            "XMP-iptcCore:AltTextAccessibility": text,
        }
        if keywords := list_keywords(row.get("label"), row.get("data")):
            tags["XMP-dc:Subject"] = list(keywords)
        self._file.write(self._begin + b"\n" + dump_row(tags).encode())
        self._begin = b","

    def finish(self) -> None:
        self._file.write(b"\n]\n" if self._begin == b"," else b"[]\n")


def read_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    """The one file that a row is about, and what it says. Raises BadItem."""
    if row.get("error") is not None or not isinstance(row.get("text"), str):
        raise BadItem("it failed, so it says nothing")
    sources = read_sources(row)
    if len(sources) != 1 or is_url(sources[0]) or sources[0] == "-" or split_member(sources[0]) is not None:
        raise BadItem("it is not about one file")
    return sources[0], str(row["text"])
