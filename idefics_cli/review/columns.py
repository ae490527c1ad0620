"""The values of every row that are kept in memory: numbers, categories as codes, and texts in a file for searching; and
which rows belong together by them.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from . import pattern_process
from .filter import Mask

MAX_VALUES = 20_000
OTHER = "(other)"
WAIT_SECONDS = 20.0
"""For a pattern, on a machine that is busy with other things; its own time is bounded where it runs."""
_MIDDLE = "\n\x1f\n"
"""Between what a row answers and what else it is found by."""
_BLOCK = 1 << 22
NO_ROW = -1


class Column:
    """Numbers in a growing array. A view that was handed out stays valid, whatever is added later."""

    def __init__(self, kind: Any, capacity: int = 1024) -> None:
        self._numbers = np.empty(max(capacity, 1024), kind)
        self._count = 0

    def extend(self, numbers: Sequence[Any] | npt.NDArray[Any]) -> None:
        end = self._count + len(numbers)
        if end > len(self._numbers):
            larger = np.empty(max(end, len(self._numbers) * 3 // 2), self._numbers.dtype)
            larger[: self._count] = self._numbers[: self._count]
            self._numbers = larger
        self._numbers[self._count : end] = numbers
        self._count = end

    @property
    def values(self) -> npt.NDArray[Any]:
        return self._numbers[: self._count]


class Category:
    """Values as codes. After MAX_VALUES different values, all others share one."""

    def __init__(self, capacity: int = 1024) -> None:
        self.codes = Column(np.int32, capacity)
        self.values: list[str] = [""]
        self._known: dict[str, int] = {"": 0}

    def extend(self, values: Sequence[str]) -> None:
        known = self._known
        self.codes.extend([known[value] if value in known else self.code(value) for value in values])

    def code(self, value: str) -> int:
        found = self._known.get(value)
        if found is None:
            if len(self.values) >= MAX_VALUES and value != OTHER:
                return self.code(OTHER)
            found = self._known[value] = len(self.values)
            self.values.append(value)
        return found


class TextStore:
    r"""Texts in lower case in an unnamed file, which is deleted with the program. A row's latest text counts.

    A text is the answer of a row, then \x1f and everything else that it is found by. Searched in blocks: a text may be
    large, and all of them larger than the memory.
    """

    def __init__(self, folder: Path, capacity: int = 1024) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)
        self._size = 0
        self._starts = Column(np.int64, capacity)
        self._answer_ends = Column(np.int64, capacity)
        self._rows = Column(np.int32, capacity)
        self._latest = Column(np.int32, capacity)

    def extend(self, answers: Sequence[str], names: Sequence[str], first: int) -> None:
        """Add the texts of new rows, from `first` on."""
        record, count = len(self._rows.values), len(answers)
        self._latest.extend(np.arange(record, record + count, dtype=np.int32))
        self._append(answers, names, range(first, first + count))

    def replace(self, row: int, answer: str, names: str) -> None:
        self._append([answer], [names], [row])
        self._latest.values[row] = len(self._rows.values) - 1

    def find(self, words: str, *, in_text: bool) -> npt.NDArray[np.bool_]:
        """The rows with these words."""
        needle = words.lower().replace("\0", " ").encode("utf-8", "replace")
        hits: list[int] = []
        for start, block in self._blocks():
            position = block.find(needle)
            while position >= 0:
                hits.append(start + position)
                end = block.find(b"\0", position)
                position = block.find(needle, end)
        places = np.array(hits, np.int64)
        found = np.searchsorted(self._starts.values, places, side="right") - 1
        if in_text:
            found = found[places < self._answer_ends.values[found]]
        return self._to_rows(found)

    def match(self, pattern: str, *, in_text: bool) -> npt.NDArray[np.bool_]:
        """The rows with a match, searched by a process that can be stopped. Raises UsageError if it was."""
        count = len(self._rows.values)
        try:
            # -I -S: nothing is imported but what it needs.
            done = subprocess.run(
                [
                    *(sys.executable, "-I", "-S", pattern_process.__file__, "text" if in_text else "all"),
                    pattern,
                ],
                stdin=self._file,
                capture_output=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            done = None
        if done is None or done.returncode != 0:
            raise UsageError(
                f"/{pattern}/ takes more than {pattern_process.MAX_SECONDS} seconds or too much memory",
                hint="write a simpler pattern",
            )
        numbers = np.frombuffer(done.stdout, np.int32)
        return self._to_rows(numbers[numbers < count])

    def close(self) -> None:
        os.close(self._file)

    def _append(self, answers: Sequence[str], names: Sequence[str], rows: Sequence[int]) -> None:
        """Write texts. A running search sees only the earlier ones."""
        texts = [f"{answer}{_MIDDLE}{name}\0" for answer, name in zip(answers, names, strict=True)]
        whole = "".join(texts)
        if whole.isascii() and whole.count("\0") == whole.count("\x1f") == len(texts):
            data = memoryview(whole.lower().encode("ascii"))
            sizes = _measure(answers) + len(_MIDDLE)
            other_sizes = _measure(texts) - sizes
        else:
            folded, others = _fold(answers, _MIDDLE), _fold(names, "\0")
            data = memoryview(b"".join(itertools.chain.from_iterable(zip(folded, others, strict=True))))
            sizes, other_sizes = _measure(folded), _measure(others)
        ends = self._size + np.cumsum(sizes + other_sizes)
        starts = ends - sizes - other_sizes
        size = self._size
        while data:
            written = os.pwrite(self._file, data, size)
            size += written
            data = data[written:]
        self._starts.extend(starts)
        self._answer_ends.extend(starts + sizes - 3)
        self._rows.extend(np.asarray(rows, np.int32))
        self._size = size

    def _to_rows(self, records: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(self._latest.values), np.bool_)
        rows = self._rows.values[records]
        found[rows[self._latest.values[rows] == records]] = True
        return found

    def _blocks(self) -> Any:
        """Whole texts, some megabytes at a time."""
        position = 0
        size = self._size
        while position < size:
            length = min(_BLOCK, size - position)
            while True:
                block = os.pread(self._file, length, position)
                end = block.rfind(b"\0") + 1
                if end or position + length >= size:
                    break
                length = min(length * 2, size - position)
            yield position, block[:end]
            position += max(end, 1)


def is_repeated(hashes: npt.NDArray[np.int64]) -> Mask:
    """Which numbers occur more than once."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    found = np.zeros(len(hashes), np.bool_)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found


def join_rows(
    files: npt.NDArray[np.int8], ids: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """For every row the one of the other file about the same item, or NO_ROW."""
    left, right = np.flatnonzero(files == 0), np.flatnonzero(files == 1)
    is_clear = all(len(np.unique(ids[rows])) == len(rows) for rows in (left, right))
    keys = ids if is_clear else items
    partner = np.full(len(files), NO_ROW, np.int64)
    left_keys, left_first = np.unique(keys[left], return_index=True)
    right_keys, right_first = np.unique(keys[right], return_index=True)
    _, in_left, in_right = np.intersect1d(left_keys, right_keys, assume_unique=True, return_indices=True)
    ours, theirs = left[left_first[in_left]], right[right_first[in_right]]
    partner[ours], partner[theirs] = theirs, ours
    return partner


def _fold(texts: Sequence[str], end: str) -> list[bytes]:
    """Texts in lower case as bytes, each with `end` after it."""
    return [(text.replace("\0", " ").replace("\x1f", " ").lower() + end).encode("utf-8", "replace") for text in texts]


def _measure(texts: Sequence[str] | Sequence[bytes]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(len, texts), np.int64, len(texts))
