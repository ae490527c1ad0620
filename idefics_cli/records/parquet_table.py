"""Parquet: small columns in batches of rows, images only when they are used.

The column of a condition is read first: row groups without a match are skipped with their images. The statistics in a
file are not trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import SourceError, UsageError
from .opening import open_table
from .record import CellChoice, Record, check_columns, choose_image
from .where import hold

ROWS, IMAGE_ROWS = 1000, 8
"""Rows in memory at a time, and images."""
_BUFFER_BYTES = 1 << 20
_DAMAGE = (pa.ArrowException, OSError, ValueError)


class ParquetReader:
    """A table of rows in row groups."""

    def __init__(self, name: str, wanted: CellChoice) -> None:
        self._name, self._wanted = name, wanted
        self._metadata: Any = None
        try:
            with self._open() as file:
                self._metadata, schema = file.metadata, file.schema_arrow
        except _DAMAGE as error:
            raise UsageError(f"{name} is not a readable Parquet file: {_describe(error)}") from error
        columns = schema.names
        large = [field.name for field in schema if _is_large(field.type)]
        self.image = choose_image(name, wanted, columns, large)
        check_columns(name, [one.column for one in wanted.conditions], columns)
        chosen = {*wanted.columns, *(one.column for one in wanted.conditions)}
        self._is_lazy = self.image in large
        plain = choose_image(name, replace(wanted, image=None), columns, large) if large else ""
        self._mark = f".{self.image}" if self._is_lazy and self.image != plain else ""
        """Names the column where it is not the one that is looked at unasked."""
        self._small = [one for one in columns if one in chosen or one == self.image]
        if self._is_lazy:
            self._small.remove(self.image)

    def count_groups(self) -> list[int]:
        every = range(self._metadata.num_row_groups)
        return [self._metadata.row_group(number).num_rows for number in every]

    def read(self, groups: Collection[int] | None = None) -> Iterator[Record]:
        first = 1
        with self._open() as file:
            for number, rows in enumerate(self.count_groups()):
                if groups is None or number in groups:
                    try:
                        yield from self._read_group(file, number, first, rows)
                    except _DAMAGE as error:
                        name = f"{self._name} rows {first} to {first + rows - 1}"
                        problem = f"cannot be read from here on: {_describe(error)}"
                        yield Record(name, first, {}, problem=problem)
                first += rows

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with closing(open_table(self._name)) as stream:
            yield pq.ParquetFile(stream, metadata=self._metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False)

    def _read_group(self, file: pq.ParquetFile, number: int, first: int, rows: int) -> Iterator[Record]:
        images = _ImageColumn(file, number, self.image) if self._is_lazy else None
        for row, cells in enumerate(self._read_small(file, number, rows)):
            if hold(self._wanted.conditions, cells):
                load: Callable[[], Any] | None = None if images is None else partial(images.read, row)
                yield Record(f"{self._name}#{first + row}{self._mark}", first + row, cells, load)

    def _read_small(self, file: pq.ParquetFile, number: int, rows: int) -> Iterator[dict[str, Any]]:
        """The cells of each row of a row group, without the image."""
        if not self._small:
            yield from ({} for _ in range(rows))
            return
        for batch in file.iter_batches(ROWS, row_groups=[number], columns=self._small, use_threads=False):
            yield from batch.to_pylist()


class _ImageColumn:
    """The images of a row group, read in order and no further than needed."""

    def __init__(self, file: pq.ParquetFile, group: int, column: str) -> None:
        self._file, self._group, self._column = file, group, column
        self._problem = ""
        self._open()

    def _open(self) -> None:
        self._batches: Iterator[Any] | None = None
        self._batch: Any = None
        self._begin = self._end = 0

    def read(self, row: int) -> Any:
        """The cell of a row. Raises SourceError if it cannot be read."""
        try:
            if row < self._begin:
                self._open()
            if self._batches is None:
                self._batches = self._file.iter_batches(
                    IMAGE_ROWS, row_groups=[self._group], columns=[self._column], use_threads=False
                )
            while row >= self._end:
                self._batch = next(self._batches)
                self._begin, self._end = self._end, self._end + self._batch.num_rows
            return self._batch.column(0)[row - self._begin].as_py()
        except StopIteration:  # it has broken off, now or before
            problem = self._problem or "the table ends before its last row"
        except _DAMAGE as error:
            self._problem = problem = f"the image cannot be read: {_describe(error)}"
        raise SourceError(problem, code="not_an_image")


def _is_large(kind: Any) -> bool:
    """Whether cells hold images: bytes, or bytes with a name, as `datasets` writes them."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _describe(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
