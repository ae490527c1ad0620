"""A file of rows that a run adds to: locked, repaired after a crash, never with half a row in it.

Knows lines and the ledger of their keys, not what is in a row.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError
from .jsonl import read_lines
from .resume import Ledger, Run, Standing, number_key
from .values import Item

if sys.platform != "win32":
    import fcntl

Existing = Literal["resume", "retry-errors", "overwrite"]
_BEGINNING = b'{"id": "'
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RowFile:
    """The rows of one file, from opening to closing. Nothing that was there is lost before its replacement is there.

    `settle` may be called from another thread than the rest.
    """

    def __init__(
        self,
        path: Path,
        existing: Existing,
        run: Run,
        *,
        on_row: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Open and lock a file, repair its end and read its rows. Raises UsageError for one that is not of this run."""
        self._name = str(path)
        self._path = Path(os.path.realpath(path))
        self._is_new = not self._path.exists()
        self._begins_anew = existing == "overwrite"
        """Whether the first row is still to replace whatever the file holds."""
        self._ledger = Ledger(retries=existing == "retry-errors")
        self.was_repaired = False
        self._file = self._open_locked()
        try:
            if not self._begins_anew:
                self.was_repaired = self._repair_end()
                for number, row in self._rows():
                    if difference := run.describe_difference(row):
                        raise UsageError(
                            f"{self._name} line {number} was written with {difference}",
                            hint="name another file, or start anew with --existing overwrite",
                        )
                    self._ledger.add(row)
                    if on_row is not None:
                        on_row(row)
        except BaseException:
            os.close(self._file)
            raise

    def settle(self, item: Item) -> Standing:
        """Whether an item has a row already."""
        return self._ledger.settle(item)

    def append(self, line: str, key: str) -> None:
        """Write a row at once, whole or not at all."""
        if self._begins_anew:
            self._rewrite(lambda row: False)
            self._begins_anew = False
        end = os.fstat(self._file).st_size
        try:
            _write_all(self._file, f"{line}\n".encode())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end)
            raise UsageError(
                f"cannot write to {self._name}: {error.strerror}",
                hint="what is in it is whole: make room, then run the same command again",
            ) from error
        self._ledger.replace(key)

    def close(self) -> None:
        """Take out failed rows that have been replaced, and the file if there is nothing in it; then unlock it."""
        try:
            if left := Counter(self._ledger.replaced):

                def is_kept(row: dict[str, Any]) -> bool:
                    key = number_key(row["key"])
                    if row["error"] is None or not left[key]:
                        return True
                    left[key] -= 1
                    return False

                self._rewrite(is_kept)
            if self._is_new and os.fstat(self._file).st_size == 0:
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with open(self._file, "rb", closefd=False) as stream:
            stream.seek(0)
            for number, line in read_lines(stream):
                yield number, self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
            number_key(row["key"])
            if isinstance(row["id"], str) and isinstance(row["task"], str) and "error" in row:
                return dict(row)
        except (ValueError, LookupError, TypeError):
            pass
        raise UsageError(
            f"{self._name} line {number} is not a row that this version of idefics wrote",
            hint="name another file, or start anew with --existing overwrite",
        )

    def _repair_end(self) -> bool:
        """Cut off a last line that a crash has left unfinished, or end it if only its line end is missing."""
        size = os.fstat(self._file).st_size
        tail = b""
        length = 1 << 16
        with open(self._file, "rb", closefd=False) as stream:
            while len(tail) < size and b"\n" not in tail:
                stream.seek(max(0, size - length))
                tail = stream.read()
                length *= 2
        tail = tail[tail.rfind(b"\n") + 1 :]
        if not tail:
            return False
        row = tail.rstrip(b"\0")  # what a file system leaves of a write when the power fails
        if not row.startswith(_BEGINNING[: len(row)]):
            raise UsageError(f"{self._name} is not a file of rows", hint="name another file with --output")
        is_whole = _is_json(row)
        os.ftruncate(self._file, size - len(tail) + (len(row) if is_whole else 0))
        if is_whole:
            _write_all(self._file, b"\n")
        return True

    def _open_locked(self) -> int:
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                raise UsageError(f"cannot write {self._name}: {error.strerror}") from error
            self._lock(file)
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            os.close(file)  # another run has put a new file in its place since

    def _lock(self, file: int) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            os.close(file)
            raise UsageError(
                f"another run is writing {self._name}", hint="wait for it, or name another file"
            ) from error

    def _rewrite(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Put a file with only these rows in place of this one, in one step and without giving up the lock."""
        new_path = self._path.with_name(f".{self._path.name}.new")
        try:
            new = os.open(new_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
            try:
                self._lock(new)
                shutil.copymode(self._path, new_path)
                self._copy(new, is_kept)
                os.fsync(new)
                os.replace(new_path, self._path)
            except BaseException:
                os.close(new)
                new_path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UsageError(
                f"cannot write {new_path}: {error.strerror}", hint=f"{self._name} is as it was"
            ) from error
        os.close(self._file)
        self._file = new

    def _copy(self, new: int, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        if self._begins_anew:
            return
        with open(self._file, "rb", closefd=False) as old, open(new, "ab", closefd=False) as stream:
            old.seek(0)
            for number, line in read_lines(old):
                if is_kept(self._parse(line, number)):
                    stream.write(line + b"\n")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
