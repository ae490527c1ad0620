"""One row of a table or one sample of a shard, the interface of their readers, and the columns that they read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import UsageError
from .where import Condition

IMAGE_NAMES = (
    *("image", "images", "img", "photo", "picture", "jpg", "jpeg", "png", "webp"),
    *("image_path", "file_name", "filename", "file", "path", "image_url", "url"),
)
"""What columns of images are called, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Record:
    """The cells that were asked for. `place` counts all records of its table from 1, also those that were skipped."""

    name: str
    """What a message calls it, and its image where that has no name: `data.parquet#17`."""
    place: int
    cells: Mapping[str, Any]
    load: Callable[[], Any] | None = None
    """Reads the cell of the image, where that is large: before the next record is asked for, or not at all."""
    problem: str = ""
    """Why it, or everything after it, cannot be read."""


@dataclass(frozen=True, slots=True)
class CellChoice:
    """Which cells to read, and of which records."""

    image: str | None
    """The column of the image; None for the first that looks like one."""
    columns: Collection[str]
    conditions: tuple[Condition, ...] = ()
    max_bytes: int = 100_000_000
    """Of one image."""


class RecordTable(Protocol):
    """A file of records."""

    image: str
    """The column that its images are in."""

    def __init__(self, name: str, wanted: CellChoice) -> None:
        """Open it. Raises UsageError for what cannot be read or lacks a column."""

    def count_groups(self) -> list[int]:
        """The number of records in each part that can be read alone; none if that cannot be told without reading."""

    def read(self, groups: Collection[int] | None = None) -> Iterator[Record]:
        """The records, or only those of some groups."""


def choose_image(name: str, wanted: CellChoice, columns: Sequence[str], likely: Collection[str] = ()) -> str:
    """The column of images: the given one, one that is `likely` by its type, or one by its name. Raises UsageError."""
    if wanted.image is not None:
        check_columns(name, (wanted.image,), columns)
        return wanted.image
    by_name = {column.lower(): column for column in reversed(columns)}
    found = [by_name[one] for one in IMAGE_NAMES if one in by_name]
    found = [one for one in found if one in likely] or [one for one in columns if one in likely] or found
    if not found:
        raise UsageError(f"{name} has no column that looks like images", hint=f"--image-column: {_list(columns)}")
    return found[0]


def check_columns(name: str, wanted: Collection[str], columns: Sequence[str]) -> None:
    """Raise UsageError for a column that does not exist."""
    for column in wanted:
        if column not in columns:
            raise UsageError(f"{name} has no column {column!r}", hint=f"it has {_list(columns)}")


def _list(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:20])
    return f"{shown}, …" if len(columns) > 20 else shown or "none"
