"""One row of a table or one sample of a shard, and the interface of their readers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .where import Condition


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
