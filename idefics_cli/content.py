"""What an image file held when it was read, so that a later run finds whether it was replaced.

A file of the same size and time counts as the same; only others are read again. Knows bytes, not images.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK_BYTES = 16
"""Sizes and times in the first half of a mark, what was in the files in the second."""
UNKNOWN = bytes(MARK_BYTES)
"""The mark of a row that does not say what its images held."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a source: their SHA-256, their number, and the time of their file."""

    digest: str
    size: int
    modified: float | None = None
    """Seconds since 1970; None for what is no file, and cannot be looked at again."""

    def to_row(self) -> dict[str, Any]:
        return {"sha256": self.digest, "bytes": self.size, "modified": self.modified}


def describe_bytes(data: bytes, status: os.stat_result | None = None) -> Content:
    """Bytes, and the status of their file if they were one."""
    modified = None if status is None else _round_time(status)
    return Content(hashlib.sha256(data).hexdigest(), len(data), modified)


def describe_file(path: Path | str) -> Content | None:
    """The content of a file; None if it is no file, is empty, or cannot be read."""
    with suppress(OSError, ValueError):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device can have effects
            return None
        with open(os.open(path, _FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size:
                digest, left = hashlib.sha256(), status.st_size
                while left and (piece := file.read(min(left, 1 << 20))):  # no more, though it may grow
                    digest.update(piece)
                    left -= len(piece)
                return Content(digest.hexdigest(), status.st_size, _round_time(status))
    return None


def mark(contents: Sequence[Content | None]) -> bytes:
    """A short text for the contents of a row's files."""
    files = [one if one is not None and one.modified is not None else None for one in contents]
    stamps = [one and (one.size, one.modified) for one in files]
    return _digest(stamps) + _digest([one and one.digest for one in files])


def read_mark(row: Mapping[str, Any]) -> bytes:
    """The mark of a row; UNKNOWN if it has none, as in earlier versions, or was edited."""
    with suppress(LookupError, TypeError, ValueError):
        if row["content"]:
            return mark([None if one is None else _read(one) for one in row["content"]])
    return UNKNOWN


def _read(value: Mapping[str, Any]) -> Content:
    return Content(str(value["sha256"]), int(value["bytes"]), value["modified"])


def has_changed(known: bytes, paths: Sequence[str | None]) -> bool:
    """Whether the files are others than when the mark was made; a path is None for what is no file.

    A file that is gone has not changed: there would be nothing to ask about.
    """
    if known == UNKNOWN:
        return False
    stamps = [None if path is None else _find_stamp(path) for path in paths]
    half = MARK_BYTES // 2
    if _digest(stamps) == known[:half] or any(path is not None and not os.path.lexists(path) for path in paths):
        return False
    return mark([None if path is None else describe_file(path) for path in paths])[half:] != known[half:]


def _find_stamp(path: str) -> tuple[int, float] | None:
    with suppress(OSError, ValueError):
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return status.st_size, _round_time(status)
    return None


def _round_time(status: os.stat_result) -> float:
    """To microseconds, the precision of a JSON number."""
    return round(status.st_mtime, 6)


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value).encode("ascii")).digest()[: MARK_BYTES // 2]
