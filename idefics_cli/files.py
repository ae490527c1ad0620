"""Reads files up to a size, and writes them whole or not at all: beside their place first, never through a link.

Knows bytes and paths, not what is in a file. Failures are OSErrors.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_OWN_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/", "/dev/null", "/proc/self/fd/")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def name_kind(mode: int) -> str | None:
    """What something is, by its mode; None for a file."""
    return _KINDS.get(stat.S_IFMT(mode))


def is_own_stream(path: Path | str) -> bool:
    """Whether a path is a stream that this process was given, as shells write `>(…)`, or the null device."""
    return str(path).startswith(_OWN_STREAMS)


def read_file(path: Path | str, max_bytes: int) -> bytes:
    """The bytes of a file. Pipes, devices and more than `max_bytes` are refused without waiting."""
    return read_file_and_status(path, max_bytes)[0]


def read_file_and_status(path: Path | str, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """The bytes of a file, and its status when it was opened."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    status = os.fstat(file)
    if (kind := name_kind(status.st_mode)) is not None:
        os.close(file)
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")
    with open(file, "rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return content, status


def count_folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder; links, such as snapshots of the hub, count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                total += 0 if os.path.islink(path) else os.path.getsize(path)
            except OSError:
                continue  # removed meanwhile
    return total


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` with a new file in one step, with the same mode. A link is replaced itself."""
    with open_draft(path) as draft:
        write_all(draft.file, content)
        draft.keep()
        os.close(draft.file)


class Draft:
    """A file beside the place that it is to take. Its name is short and cannot be guessed; `file` is its descriptor."""

    def __init__(self, path: Path, flags: int = 0) -> None:
        self._target = path
        while True:
            self._path = path.with_name(f".{secrets.token_hex(6)}.tmp")
            with suppress(FileExistsError):
                self.file = os.open(self._path, _NEW | flags, 0o666)
                return

    def keep(self) -> None:
        """Move it to its place, synced to disk."""
        with suppress(FileNotFoundError):
            former = os.lstat(self._target)
            if stat.S_ISREG(former.st_mode):
                os.chmod(self._path, stat.S_IMODE(former.st_mode))
        os.fsync(self.file)
        os.replace(self._path, self._target)
        sync(self._target.parent)

    def discard(self) -> None:
        with suppress(OSError):
            os.close(self.file)
        with suppress(OSError):
            self._path.unlink()


@contextmanager
def open_draft(path: Path, flags: int = 0) -> Iterator[Draft]:
    """A draft that is deleted if anything fails; the caller closes its file once it is kept."""
    draft = Draft(path, flags)
    try:
        yield draft
    except BaseException:
        draft.discard()
        raise


@contextmanager
def open_folder_draft(path: Path, prefix: str = ".") -> Iterator[Path]:
    """A folder beside its place, moved there at the end; deleted if anything fails."""
    draft = path.with_name(f"{prefix}{secrets.token_hex(6)}.tmp")
    draft.mkdir()
    try:
        yield draft
        former = path.with_name(f".{secrets.token_hex(6)}.tmp") if os.path.lexists(path) else None
        if former is not None:
            os.rename(path, former)
        os.rename(draft, path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def write_all(file: int, data: bytes) -> None:
    """Write all of the data to a descriptor."""
    while data:
        data = data[os.write(file, data) :]


def write_lines(file: int, lines: Iterable[bytes]) -> None:
    """Write lines to a descriptor, a megabyte at a time."""
    with open(file, "wb", 1 << 20, closefd=False) as stream:
        stream.writelines(lines)


def append_whole(file: int, data: bytes) -> None:
    """Append data to a file, or leave it unchanged if the disk has no room for all of it."""
    end = os.fstat(file).st_size
    try:
        write_all(file, data)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, end)
        raise


def lock(file: int) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock. True where locks do not exist."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _NO_LOCKS
    return True


def sync(path: Path) -> None:
    """Sync a file, or a new name in a folder, to disk, where the system can."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
