"""The file of rows of a run: locked, repaired after a crash, never with half a row in it.

Knows lines and the ledger of their keys, not what is in a row.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError
from ..files import append_whole, lock, open_draft, write_all
from ..jsonl import MAX_LINE_BYTES, read_lines
from ..values import Item
from .ledger import Ledger, Run, Standing, have_not_changed, number_key
from .unsure import Successions, UnsureRows

Existing = Literal["resume", "retry-errors", "retry-changed", "retry-unsure", "overwrite"]
_BEGINNING, _NEXT = b'{"id": "', b'", "images": ['
_ID = re.compile(rb'\{"id": "(?:[^"\\]|\\.)*', re.DOTALL)
_MAX_ZEROS = 1 << 16
"""A file of at most so many zeros is a first row lost in a crash; a longer one is another file."""


class RowFile:
    """The rows of one file, from opening to closing. Nothing is lost before its replacement is written.

    `settle` may be called from another thread than the rest.
    """

    def __init__(
        self,
        path: Path,
        existing: Existing,
        run: Run,
        *,
        name: str | None = None,
        least: float = 0.0,
        on_row: Callable[[dict[str, Any]], None] | None = None,
        has_changed: Callable[[bytes, Item], bool] = have_not_changed,
    ) -> None:
        """Open and lock a file, read its rows, then repair its end. A file of another run is not changed.

        `has_changed` looks whether an item's images are others than when its row was marked. Rows of another run that
        are less sure than `least` are asked again where that is what is wanted of them.
        Raises UsageError for a file of another run.
        """
        self._name = name or str(path)
        self._path = Path(os.path.realpath(path))
        self._is_new = not self._path.exists()
        self._begins_anew = existing == "overwrite"
        """Whether the first row will still replace the content of the file."""
        self._ledger = Ledger(
            retries=existing == "retry-errors",
            retries_changed=existing == "retry-changed",
            has_changed=has_changed,
        )
        self._successions = Successions(self._ledger.count_good)
        self.unsure = UnsureRows(least) if existing == "retry-unsure" else None
        """The rows of other runs in the file, where these are asked again."""
        self.was_repaired = False
        self._file = self._open_locked()
        try:
            if not self._begins_anew:
                tail = self._read_tail()
                for number, row in self._rows(tail):
                    self._add(row, number, run)
                    if on_row is not None:
                        on_row(row)
                self.was_repaired = self._repair_end(tail)
        except BaseException:
            os.close(self._file)
            raise

    def _add(self, row: dict[str, Any], number: int, run: Run) -> None:
        """Count a row. Raises UsageError if this run cannot continue after it."""
        difference = run.describe_difference(row)
        if self.unsure is not None and row["task"] != run.shown.get("task", row["task"]):
            raise UsageError(
                f"{self._name} line {number} is of another task, {row['task']}",
                hint="ask again with the command that wrote it and another --model or --template",
            )
        if difference and not run.began(row) and self.unsure is None:
            raise UsageError(
                f"{self._name} line {number} {difference}",
                hint="name another file, or start anew with --existing overwrite",
            )
        instead_of = row.get("instead_of")
        is_successor = row["error"] is None and self._successions.add(row["key"], instead_of, is_own=not difference)
        if not difference:
            self._ledger.add(row)
            if self.unsure is not None:
                self.unsure.forget(row)
        elif run.began(row):
            if not is_successor:
                self._ledger.count(row)
        elif self.unsure is not None:
            self.unsure.add(row)

    def lookup(self, item: Item) -> Standing:
        """Whether an item has a row already."""
        return self._ledger.lookup(item)

    def has(self, key: str) -> bool:
        """Whether there is a row with this key that belongs to no item yet."""
        return self._ledger.has(key)

    @property
    def changed(self) -> int:
        """How many items were found to have other images than when their row was written."""
        return self._ledger.changed

    def append(self, line: str, key: str, instead_of: str = "") -> None:
        """Write a row at once, whole or not at all. It may replace one of another run."""
        if self._begins_anew:
            self._rewrite(lambda row: False)
            self._begins_anew = False
        try:
            append_whole(self._file, f"{line}\n".encode())
        except OSError as error:
            raise UsageError(
                f"cannot write to {self._name}: {error.strerror}",
                hint="its rows are complete: free some space, then run the same command again",
            ) from error
        self._ledger.replace(key)
        if instead_of:
            self._successions.add(key, instead_of, is_own=True)

    def close(self) -> None:
        """Remove rows that were replaced, and the file if it is empty; then unlock it."""
        try:
            failed, good = Counter(self._ledger.replaced), Counter(self._ledger.outdated)
            good += self._successions.superseded
            if failed or good:

                def is_kept(row: dict[str, Any]) -> bool:
                    key, left = number_key(row["key"]), good if row["error"] is None else failed
                    if not left[key]:
                        return True
                    left[key] -= 1
                    return False

                self._rewrite(is_kept)
            if self._is_new and os.fstat(self._file).st_size == 0:
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)

    def _read_tail(self) -> bytes:
        """The bytes after the last line end; at most one line is read."""
        size, length, tail = os.fstat(self._file).st_size, 1 << 16, b""
        with open(self._file, "rb", closefd=False) as stream:
            while len(tail) < min(size, MAX_LINE_BYTES) and b"\n" not in tail:
                stream.seek(max(0, size - length))
                tail = stream.read()
                length *= 2
        return tail[tail.rfind(b"\n") + 1 :]

    def _rows(self, tail: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows with their line numbers. Raises UsageError for a line that is no row, except a cut-off last one."""
        size = os.fstat(self._file).st_size
        with open(self._file, "rb", closefd=False) as stream:
            stream.seek(0)
            number = 0
            for number, line in read_lines(stream):
                if not tail or stream.tell() < size:
                    yield number, self._parse(line, number)
        row = tail.rstrip(b"\0")
        if _is_json(row):
            yield number, self._parse(row, number)
        elif not _is_piece(row) or (len(tail) == size and not row and size > _MAX_ZEROS):
            raise UsageError(f"{self._name} is not a file of rows", hint="name another file with --output")

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            row = json.loads(line)
            number_key(row["key"])
            if _is_row(row):
                return dict(row)
        raise UsageError(
            f"{self._name} line {number} is not a row that this version of idefics wrote",
            hint="name another file, or start anew with --existing overwrite",
        )

    def _repair_end(self, tail: bytes) -> bool:
        """Remove a last line that a crash cut off, or end it if only its line end is missing."""
        if not tail:
            return False
        row = tail.rstrip(b"\0")  # what a file system leaves of a write when the power fails
        is_whole = _is_json(row)
        size = os.fstat(self._file).st_size
        os.ftruncate(self._file, size - len(tail) + (len(row) if is_whole else 0))
        if is_whole:
            write_all(self._file, b"\n")
        return True

    def _open_locked(self) -> int:
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
            except OSError as error:
                raise UsageError(f"cannot write {self._name}: {error.strerror}") from error
            if not lock(file):
                os.close(file)
                raise UsageError(f"another run is writing {self._name}", hint="wait for it, or name another file")
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            os.close(file)  # another run has put a new file in its place since

    def _rewrite(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Replace the file with one of only these rows, in one step, with the lock held."""
        try:
            with open_draft(self._path, os.O_APPEND) as draft:
                lock(draft.file)
                self._copy(draft.file, is_kept)
                draft.keep()
        except OSError as error:
            raise UsageError(
                f"cannot write a new {self._name}: {error.strerror}", hint="the file was not changed"
            ) from error
        os.close(self._file)
        self._file = draft.file

    def _copy(self, new: int, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        if self._begins_anew:
            return
        with open(self._file, "rb", closefd=False) as old, open(new, "ab", closefd=False) as stream:
            old.seek(0)
            for number, line in read_lines(old):
                if is_kept(self._parse(line, number)):
                    stream.write(line + b"\n")


def _is_row(row: dict[str, Any]) -> bool:
    """Whether the fields that resuming needs are valid."""
    error, images = row["error"], row["images"]
    return (
        all(isinstance(row[name], str) for name in ("id", "task", "key"))
        and isinstance(images, list)
        and all(isinstance(one, str) for one in images)
        and isinstance(row["text"], str | None)
        and (error is None or (isinstance(error["code"], str) and isinstance(error["message"], str)))
    )


def _is_piece(line: bytes) -> bool:
    """Whether this could be the beginning of a row."""
    beginning = _ID.match(line)
    if beginning is None:
        return _BEGINNING.startswith(line)
    rest = line[beginning.end() :]
    return rest == b"\\" or _NEXT.startswith(rest[: len(_NEXT)])


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
