"""Rows on their way to a bucket: written to a file of this machine, from which parts are put as they fill up.

A store that does not answer for a while holds nothing up: its rows wait in that file, for this run or the next one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SourceError, UsageError
from ..files import lock, open_draft, write_all
from .parts import MANIFEST, Part, PartStore, digest, write_manifest
from .store_lock import StoreLock

PART_BYTES = 8_000_000
FIRST_SECONDS, MAX_SECONDS = 10.0, 300.0
"""How long a row waits for its part to fill up: at first, and when a run has been going on for long."""
SHARE = 0.05
"""A part is put after this share of the time that a run has taken, so that a long one has no thousands of them."""
PAUSE_SECONDS = 0.5
HURRY_SECONDS = 2.0
"""How long a part that is being put is waited for when the run is to end at once."""
_PASSING = ("fetch_failed", "timeout")


class RowUpload:
    """The parts of one file of rows, from opening to closing. `rows` is the file that holds them here."""

    def __init__(self, url: str, rows: Path, *, is_replaced: bool) -> None:
        """Lock both places and have the same rows here as there. Raises UsageError.

        Rows that are to be replaced are left alone until there are others.
        """
        self.rows, folder = rows, rows.parent
        self.problem: UsageError | None = None
        """Why nothing more can be put, once that is certain."""
        self._store = PartStore(url)
        self._held = _lock_folder(folder, self._store.name)
        self._changes = threading.Condition()
        self._is_closing = False
        self._began = self._since = time.monotonic()
        try:
            self._lock = StoreLock(self._store, folder)
            try:
                self._parts = self._store.list()
                self._replaced = self._parts if is_replaced else []
                if is_replaced:
                    self.rows.unlink(missing_ok=True)
                    self._parts = []
                elif not self._has_parts():
                    self._fetch()
            except BaseException:
                self._lock.release()
                raise
        except BaseException:
            os.close(self._held)
            raise
        self._number = max((part.number for part in (*self._parts, *self._replaced)), default=-1) + 1
        self._has_manifest: bool | None = None
        self._thread = threading.Thread(target=self._put_when_due, daemon=True)
        self._thread.start()

    @property
    def is_sure(self) -> bool:
        """Whether the store keeps two runs apart that begin at the same moment."""
        return self._lock.is_sure

    def notice(self) -> None:
        """Note that there is a row more. Raises UsageError where no row can get there any more."""
        if self.problem is not None:
            raise self.problem

    def close(self, *, is_whole: bool, puts: bool = True) -> None:
        """Put what is left, then the manifest if these are all rows, and unlock. Raises UsageError if that fails.

        Where nothing `puts` it, because the run is to end at once, it waits here for the same command.
        """
        with self._changes:
            self._is_closing = True
            self._changes.notify()
        try:
            self._thread.join(None if puts else HURRY_SECONDS)
            if not puts:
                if self.problem is None and not self._thread.is_alive():
                    self._lock.release()
                return
            if self.problem is not None:
                raise self.problem
            if self.rows.exists():
                self._leave_out()
                while self._put_next():
                    pass
                if is_whole:
                    self._put_manifest()
            self._lock.release()
        except UsageError as error:
            raise UsageError(str(error), hint=f"its rows wait in {self.rows} for the same command") from error
        finally:
            os.close(self._held)

    def forget(self) -> None:
        """Remove the rows that are kept here."""
        self.rows.unlink(missing_ok=True)

    def _put_when_due(self) -> None:
        while True:
            with self._changes:
                if self._is_closing or self._changes.wait(PAUSE_SECONDS):
                    return
            try:
                self._lock.renew()
                while not self._is_closing and self._is_due() and self._put_next():
                    self._since = time.monotonic()
            except UsageError as error:
                self._since = time.monotonic()
                cause = error.__cause__
                if not (isinstance(cause, SourceError) and cause.code in _PASSING):
                    self.problem = error
                    return

    def _is_due(self) -> bool:
        now = time.monotonic()
        waited = min(MAX_SECONDS, max(FIRST_SECONDS, SHARE * (now - self._began)))
        try:
            waiting = self.rows.stat().st_size - self._offset
        except FileNotFoundError:
            return False
        return waiting >= PART_BYTES or (waiting > 0 and now - self._since >= waited)

    @property
    def _offset(self) -> int:
        return sum(part.size for part in self._parts)

    def _put_next(self) -> bool:
        """Put a part of the whole lines that are not there yet; False if there are none."""
        with open(self.rows, "rb") as stream:
            stream.seek(self._offset)
            content = stream.read(PART_BYTES)
            while content and b"\n" not in content and (more := stream.read(PART_BYTES)):
                content += more
        content = content[: content.rfind(b"\n") + 1]
        if not content:
            return False
        self._lock.renew()
        self._begin()
        self._parts.append(self._store.put(self._number, content))
        self._number += 1
        return True

    def _begin(self) -> None:
        """Take away the mark that these are all rows, and rows that are replaced."""
        if self._has_manifest is None or self._has_manifest:
            self._store.remove([MANIFEST])
            self._has_manifest = False
        self._store.remove([part.name for part in self._replaced])
        self._replaced = []

    def _put_manifest(self) -> None:
        if self._has_manifest is None and self._store.read_object(MANIFEST) is not None:
            return  # nothing was added to what was whole
        self._begin()
        self._store.put_object(MANIFEST, write_manifest(self._parts, self.rows))

    def _leave_out(self) -> None:
        """Put those parts anew of which rows have since been taken out of the file here."""
        if self._has_parts():
            return
        self._begin()
        kept: list[Part] = []
        with open(self.rows, "rb") as stream:
            line = stream.readline()
            for part in self._parts:
                left = bytearray()
                for old in self._store.read(part).splitlines(keepends=True):
                    if old == line:
                        left += line
                        line = stream.readline()
                if len(left) == part.size:
                    kept.append(part)
                    continue
                if left:
                    kept.append(self._store.put(part.number, bytes(left)))
                self._store.remove([part.name])
        self._parts = kept

    def _has_parts(self) -> bool:
        """Whether the file here begins with the rows that are there, which tells what it has more of."""
        try:
            with open(self.rows, "rb") as stream:
                return all(_is_next(part, stream.read(part.size)) for part in self._parts)
        except FileNotFoundError:
            return not self._parts

    def _fetch(self) -> None:
        with _explain(self.rows), open_draft(self.rows) as draft:
            for part in self._parts:
                write_all(draft.file, self._store.read(part))
            draft.keep()
            os.close(draft.file)


def _is_next(part: Part, content: bytes) -> bool:
    return len(content) == part.size and digest(content).startswith(part.digest)


def _lock_folder(folder: Path, name: str) -> int:
    with _explain(folder):
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not lock(file):
        os.close(file)
        raise UsageError(f"another run is writing {name}", hint="wait for it, or name another place")
    return file


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}", hint="make room, or set IDEFICS_STATE_DIR"
        ) from error
