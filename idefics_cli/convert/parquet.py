"""Rows as Parquet: typed columns, a group of rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import CellKind, TableColumn, flatten

MAX_GROUP_ROWS = 10_000
MAX_GROUP_CHARACTERS = 16_000_000
_TYPES: dict[CellKind, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "truth": pa.bool_(),
    "texts": pa.list_(pa.string()),
}


class ParquetTable:
    """Rows in groups, each written as soon as it is full."""

    def __init__(self, file: IO[bytes], columns: Sequence[TableColumn]) -> None:
        self._columns = columns
        self._schema = pa.schema([(column.name, _TYPES[column.kind]) for column in columns])
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._empty()

    def write(self, row: Mapping[str, Any]) -> None:
        cells = flatten(row)
        for column, waiting in zip(self._columns, self._waiting, strict=True):
            value = column.read(cells)
            waiting.append(value)
            self._characters += len(value) if isinstance(value, str) else 8
        self._count += 1
        if self._count >= MAX_GROUP_ROWS or self._characters >= MAX_GROUP_CHARACTERS:
            self._write_group()

    def finish(self) -> None:
        if self._count:
            self._write_group()
        self._writer.close()

    def _empty(self) -> None:
        self._waiting: list[list[Any]] = [[] for _ in self._columns]
        self._count = self._characters = 0

    def _write_group(self) -> None:
        self._writer.write_table(pa.table(self._waiting, schema=self._schema))
        self._empty()
