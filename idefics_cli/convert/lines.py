"""Rows as lines: CSV for spreadsheets, JSON lines for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

from ..jsonl import dump_row
from .columns import TableColumn, flatten

_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that some spreadsheet runs; the last four are = + - @ as wide as a Chinese character."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


class CsvTable:
    """A line for each row, as RFC 4180 has it, in UTF-8 with a byte order mark for spreadsheets.

    A text that a spreadsheet would run gets an apostrophe before it. One image is its name, several are JSON.
    """

    def __init__(self, file: IO[bytes], columns: Sequence[TableColumn]) -> None:
        self._columns = columns
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text)
        self._text.write("\ufeff")
        self._writer.writerow([neutralise(column.name) for column in columns])

    def write(self, row: Mapping[str, Any]) -> None:
        cells = flatten(row)
        self._writer.writerow([_to_cell(column.read(cells)) for column in self._columns])

    def finish(self) -> None:
        self._text.flush()
        self._text.detach()


class JsonlTable:
    """A flat object for each row."""

    def __init__(self, file: IO[bytes], columns: Sequence[TableColumn]) -> None:
        self._file, self._columns = file, columns

    def write(self, row: Mapping[str, Any]) -> None:
        cells = flatten(row)
        line = dump_row({column.name: column.read(cells) for column in self._columns})
        self._file.write(f"{line}\n".encode())

    def finish(self) -> None:
        """Every row is already written."""


def neutralise(text: str) -> str:
    """The text as a cell that no spreadsheet runs as a formula, without characters that end a text for some readers."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _to_cell(value: Any) -> Any:
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else json.dumps(value, ensure_ascii=False) if value else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return neutralise(value) if isinstance(value, str) else value
