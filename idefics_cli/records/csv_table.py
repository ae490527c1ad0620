"""CSV as spreadsheets and programs write it: one line at a time, in UTF-8; damaged lines are records with a problem."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from contextlib import closing
from typing import IO

from ..errors import UsageError
from .opening import open_table
from .record import CellChoice, Record, check_columns, choose_image
from .where import hold

MAX_LINE_BYTES = 16_000_000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = "\t;,"


class CsvReader:
    """The first line names the columns. The separator is whichever of comma, semicolon and tab it has most of."""

    def __init__(self, name: str, wanted: CellChoice) -> None:
        self._name, self._wanted = name, wanted
        csv.field_size_limit(MAX_LINE_BYTES)
        with closing(open_table(name)) as file:
            head = file.readline(MAX_LINE_BYTES)
            if head.startswith(_UTF16):
                raise UsageError(f"{name} is UTF-16", hint="save it as CSV UTF-8")
            line = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
            self._delimiter = max(reversed(_DELIMITERS), key=line.count)
            file.seek(0)
            self._columns = next(self._open(file), [])
        if not any(self._columns):
            raise UsageError(f"{name} is empty", hint="its first line names the columns")
        self.image = choose_image(name, wanted, self._columns)
        check_columns(name, [one.column for one in wanted.conditions], self._columns)

    def count_groups(self) -> list[int]:
        return []

    def read(self, groups: Collection[int] | None = None) -> Iterator[Record]:
        with closing(open_table(self._name)) as file:
            lines = self._open(file)
            next(lines, None)
            place = 0
            while True:
                problem = ""
                try:
                    row = next(lines, None)
                except csv.Error as error:
                    row, problem = [], f"cannot be read: {error}"
                if row is None:
                    return
                if not row and not problem:
                    continue  # a blank line
                place += 1
                name = f"{self._name}#{place}"
                if len(row) > len(self._columns) and any(row[len(self._columns) :]):
                    problem = f"has {len(row)} cells, but there are {len(self._columns)} columns"
                cells = {one: text for one, text in zip(self._columns, row, strict=False) if text}
                if problem or hold(self._wanted.conditions, cells):
                    yield Record(name, place, cells, problem=problem)

    def _open(self, file: IO[bytes]) -> Iterator[list[str]]:
        return csv.reader(_read_lines(file), delimiter=self._delimiter)


def _read_lines(file: IO[bytes]) -> Iterator[str]:
    """The lines with their ends, each bounded; bytes that are not UTF-8 survive, as in names of files."""
    is_first = True
    while line := file.readline(MAX_LINE_BYTES):
        while not line.endswith(b"\n") and len(line) >= MAX_LINE_BYTES and (rest := file.readline(1 << 16)):
            if rest.endswith(b"\n"):
                break
        yield (line.removeprefix(b"\xef\xbb\xbf") if is_first else line).decode("utf-8", "surrogateescape")
        is_first = False
