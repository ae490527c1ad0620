"""Opens a file or bytes for decoding: regular files only, read whole unless they are very large."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import SourceError
from .deadline import Deadline, time_bytes, time_file

IN_MEMORY_BYTES = 100_000_000
"""A larger file is read piece by piece: who has a scan of gigabytes has not the memory for it twice."""
_PIECE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Opened:
    """An opened source at its beginning, with all its bytes if they are in memory, and its file status."""

    file: IO[bytes]
    content: bytes | None
    status: os.stat_result | None = None


@contextlib.contextmanager
def open_data(data: bytes | Path, name: str, deadline: Deadline) -> Iterator[Opened]:
    """Open a source for decoding. Raises SourceError: not_found, not_an_image."""
    if isinstance(data, bytes):
        yield Opened(time_bytes(data, deadline), data)
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(io.FileIO(_open_regular(data, name)))
            content = None
            status = os.fstat(file.fileno())
            if status.st_size <= IN_MEMORY_BYTES:
                content = _read_all(file, status.st_size, name)
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}", code="not_found") from None
        except ValueError:
            raise SourceError(f"{name} is not a possible file name", code="not_found") from None
        if content is None:
            yield Opened(stack.enter_context(time_file(file, deadline)), None, status)
        else:
            yield Opened(time_bytes(content, deadline), content, status)


def _read_all(file: io.FileIO, size: int, name: str) -> bytes:
    """The whole file, which may have grown meanwhile."""
    pieces = [file.read(size)]
    while piece := file.read(_PIECE_BYTES):
        pieces.append(piece)
        if len(pieces) * _PIECE_BYTES > IN_MEMORY_BYTES:
            raise SourceError(f"{name} grows while it is read", code="not_an_image")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _open_regular(path: Path, name: str) -> int:
    # Looked at before it is opened: opening a device can have effects, opening a FIFO waits for a writer.
    # O_NONBLOCK and the second look are for a path that changes in between.
    _check_regular(path.stat(), path, name)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(descriptor), path, name)
    except SourceError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result, path: Path, name: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{name} is a folder, not an image", code="not_an_image", hint=_hint_folder(path))
    raise SourceError(
        f"{name} is a pipe, socket or device, not an image file",
        code="not_an_image",
        hint="pipe the image to standard input and name it -",
    )


def _hint_folder(path: Path) -> str:
    # Folders within folders are expanded; only those that cannot be listed come here as they are.
    try:
        os.scandir(path).close()
    except OSError as error:
        return f"and it cannot be listed: {error.strerror}"
    return ""
