"""One image of a table by its name, for later use: the review page, copies of images.

Tables are read forward from the last image: in order, all images cost one pass.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import SourceError, UsageError
from ..images.names import name_source
from .formats import open_kind
from .record import CellChoice, Record, RecordTable

KEPT = 4
"""Tables that are kept open."""
_PLACE = re.compile(r"\d+(?:\.(?P<column>.+))?", re.DOTALL)


@dataclass(slots=True, eq=False)
class _Cursor:
    """A table that is being read."""

    key: tuple[str, str | None]
    table: RecordTable
    records: Iterator[Record]


_lock = threading.Lock()
_cursors: list[_Cursor] = []


def read_member(name: str, member: str, max_bytes: int) -> bytes:
    """The bytes of an image. Raises SourceError."""
    source = f"{name}#{member}"
    match = _PLACE.fullmatch(member)
    column = match["column"] if match else member.rpartition("/")[2].partition(".")[2] or None
    with _lock:
        try:
            cell = _find(name, source, column, max_bytes)
        except UsageError as error:
            raise SourceError(str(error), code="not_found") from error
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    if not isinstance(cell, bytes):
        raise SourceError(f"{name_source(source)} does not exist or has no image", code="not_found")
    if len(cell) > max_bytes:
        raise SourceError(f"{name_source(source)} has more than {max_bytes:,} bytes", code="too_large")
    return cell


def _find(name: str, source: str, column: str | None, max_bytes: int) -> Any:
    """The cell of an image, searched from where the table was left, then from its beginning."""
    key = (name, column)
    cursor = next((one for one in _cursors if one.key == key), None)
    for _ in range(1 if cursor is None else 2):
        if cursor is None:
            table = open_kind(name, CellChoice(column, (), max_bytes=max_bytes))
            cursor = _Cursor(key, table, table.read())
            _cursors.append(cursor)
            del _cursors[:-KEPT]
        for record in cursor.records:
            if record.name == source:
                return record.load() if record.load is not None else record.cells.get(cursor.table.image)
        _cursors.remove(cursor)
        cursor = None
    return None
