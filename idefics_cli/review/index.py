"""Every row of one file, or of two: its place, and what it is found by. Growing files are followed.

A row's number is its place in the index. With two files, a row of the second that matches one of the first is shown
behind it; the others have places of their own.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..jsonl import MAX_LINE_BYTES
from .columns import NO_ROW, Category, Column, TextStore, is_repeated, join_rows
from .filter import CATEGORIES, NUMBERS, Mask
from .lines import no_collection, parse_row, parse_rows, read_block
from .summary import Summary, summarise

_HASHES = ("identity", "id", "item", "answer")
_READ = tuple(name for name in CATEGORIES if name != "decision")


class RowIndex:
    """The rows of files. `extend` may run in a thread of its own."""

    def __init__(self, paths: Sequence[Path], scratch: Path) -> None:
        """Open the files. `scratch` is the folder of the texts while the index exists."""
        self.paths = tuple(paths)
        self.lock = threading.RLock()
        self._scratch = scratch
        self.only: npt.NDArray[np.int64] | None = None
        """The identities of the rows to look at, where it is not all of them."""
        self._files: list[int] = []
        self.generation = 0
        """Changes when a file was replaced, and with it what row numbers mean."""
        try:
            self._open()
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error

    def _open(self) -> None:
        self._files = [os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)) for path in self.paths]
        capacity = sum(os.fstat(file).st_size for file in self._files) // 500
        self._ends, self._lines = [0] * len(self._files), [0] * len(self._files)
        self._place = {name: Column(np.int64, capacity) for name in ("start", *_HASHES)}
        self._line = Column(np.int32, capacity)
        self._file = Column(np.int8, capacity)
        self._edited = Column(np.bool_, capacity)
        self._numbers = {name: Column(np.float32, capacity) for name in NUMBERS}
        self._categories = {name: Category(capacity) for name in CATEGORIES}
        self._texts = TextStore(self._scratch, capacity)
        self._partner: npt.NDArray[np.int64] | None = None
        self._duplicates: Mask | None = None

    @property
    def count(self) -> int:
        return len(self._file.values)

    @property
    def read_bytes(self) -> tuple[int, int]:
        """How many bytes were read, and how many there are."""
        return sum(self._ends), sum(os.fstat(file).st_size for file in self._files)

    def extend(self) -> npt.NDArray[np.int64] | None:
        """Read some more lines; returns the numbers of new rows, or None if there were none."""
        self._reopen_replaced()
        for number, file in enumerate(self._files):
            start = self._ends[number]
            lines, begins, end = read_block(file, start)
            if end == start:
                continue
            with no_collection():
                rows = list(map(summarise, parse_rows(lines), itertools.count(self._lines[number] + 1)))
                with self.lock:
                    first = self.count
                    if rows:
                        self._add(rows, begins, number)
                    self._ends[number] = end
                    self._lines[number] += len(lines)
            return np.arange(first, first + len(rows))
        return None

    def read(self, row: int) -> dict[str, Any]:
        """A row as it is in its file; an invalid one has an error."""
        return parse_row(self.read_line(row))

    def read_line(self, row: int) -> bytes:
        """The line of a row, without its end."""
        file, position = self._files[self.file_of(row)], int(self._place["start"].values[row])
        length = 1 << 12
        while True:
            data = os.pread(file, length, position)
            end = data.find(b"\n")
            if end >= 0 or len(data) < length or length > MAX_LINE_BYTES:
                return data[: end if end >= 0 else None]
            length *= 4

    def file_of(self, row: int) -> int:
        return int(self._file.values[row])

    def identities(self) -> npt.NDArray[np.int64]:
        return self._place["identity"].values

    def line_of(self, row: int) -> int:
        return int(self._line.values[row])

    def replace(self, row: int, summary: Summary, decision: str, *, is_edited: bool) -> None:
        """Let a row be found by its corrected content."""
        with self.lock:
            self._texts.replace(row, summary.text, summary.names)
            corrected = {"label": summary.label, "error": summary.error, "decision": decision}
            for name, value in corrected.items():
                category = self._categories[name]
                category.codes.values[row] = category.code(value)
            self._numbers["length"].values[row] = summary.length
            self._place["answer"].values[row] = summary.answer
            self._edited.values[row] = is_edited

    def partners(self) -> npt.NDArray[np.int64]:
        """For every row the one of the other file about the same item, or NO_ROW.

        Matched by id; ids that occur several times in a file are matched by id, images and fields, in order.
        """
        with self.lock:
            if self._partner is None or len(self._partner) != self.count:
                self._partner = join_rows(self._file.values, self._place["id"].values, self._place["item"].values)
            return self._partner

    def all_rows(self) -> Mask:
        """The rows to review: those of the first file, and those that only the second has."""
        if self.only is not None:
            return np.isin(self.identities(), self.only)
        if len(self.paths) == 1:
            return np.ones(self.count, np.bool_)
        return np.asarray((self._file.values == 0) | (self.partners() == NO_ROW))

    def note_duplicates(self, found: Mask) -> None:
        """Record which rows show the same image as another row."""
        self._duplicates = found

    @property
    def duplicates_known(self) -> int:
        """For how many rows duplicates are known."""
        return 0 if self._duplicates is None else len(self._duplicates)

    def codes(self, name: str) -> npt.NDArray[np.int32]:
        return self._categories[name].codes.values

    def values(self, name: str) -> Sequence[str]:
        return self._categories[name].values

    def numbers(self, name: str) -> npt.NDArray[np.float32]:
        return self._numbers[name].values

    def find(self, words: str, *, in_text: bool) -> Mask:
        return self._texts.find(words, in_text=in_text)

    def match(self, pattern: str, *, in_text: bool) -> Mask:
        return self._texts.match(pattern, in_text=in_text)

    def has(self, name: str) -> Mask:
        with self.lock:
            return self._has(name)

    def _has(self, name: str) -> Mask:
        answers, partners = self._place["answer"].values, self.partners() if len(self.paths) > 1 else None
        if name == "failed":
            return np.asarray(self.codes("error") > 0)
        if name == "edited":
            return self._edited.values.copy()
        if name == "reviewed":
            return np.asarray(self.codes("decision") > 0)
        if name == "repeated":
            return is_repeated(np.where(self.codes("error") > 0, -np.arange(self.count) - 1, answers))
        if name == "duplicate":
            found = np.zeros(self.count, np.bool_)
            if self._duplicates is not None:
                found[: len(self._duplicates)] = self._duplicates
            return found
        if partners is None:
            raise UsageError(f"is:{name} needs two files", hint="idefics review one.jsonl other.jsonl")
        if name == "missing":
            return np.asarray(partners == NO_ROW)
        same = (partners != NO_ROW) & (answers == answers[partners])
        return np.asarray(same if name == "agree" else (partners != NO_ROW) & ~same)

    def _add(self, rows: list[Summary], starts: npt.NDArray[np.int64], file: int) -> None:
        columns = Summary(*zip(*rows, strict=True))  # type: ignore[arg-type]
        self._texts.extend(columns.text, columns.names, self.count)
        self._place["start"].extend(starts)
        for name in _HASHES:
            self._place[name].extend(getattr(columns, name))
        for name in NUMBERS:
            self._numbers[name].extend(getattr(columns, name))
        for name in _READ:
            self._categories[name].extend(getattr(columns, name))
        self._categories["decision"].codes.extend(np.zeros(len(rows), np.int32))
        self._line.extend(np.arange(len(rows)) + self._lines[file] + 1)
        self._edited.extend(np.zeros(len(rows), np.bool_))
        self._file.extend(np.full(len(rows), file, np.int8))

    def _reopen_replaced(self) -> None:
        """Start again if a file was replaced: a run that asked failed rows again puts a new one in its place."""
        for path, file, end in zip(self.paths, self._files, self._ends, strict=True):
            status = os.fstat(file)
            try:
                is_same = os.path.samestat(status, os.stat(path)) and status.st_size >= end
            except OSError:  # removed: what was read of it can still be looked at
                is_same = True
            if not is_same:
                break
        else:
            return
        with self.lock:
            self.close()
            self.generation += 1
            self._open()

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._texts.close()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of an index at one moment, while it grows: the table of a filter."""

    index: RowIndex
    count: int

    def codes(self, name: str) -> npt.NDArray[np.int32]:
        return self.index.codes(name)[: self.count]

    def values(self, name: str) -> Sequence[str]:
        return self.index.values(name)

    def numbers(self, name: str) -> npt.NDArray[np.float32]:
        return self.index.numbers(name)[: self.count]

    def find(self, words: str, *, in_text: bool) -> Mask:
        return self.index.find(words, in_text=in_text)[: self.count]

    def match(self, pattern: str, *, in_text: bool) -> Mask:
        return self.index.match(pattern, in_text=in_text)[: self.count]

    def has(self, name: str) -> Mask:
        return self.index.has(name)[: self.count]
