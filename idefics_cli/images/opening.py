"""A file or bytes, opened to be decoded: regular files only, and whole in memory unless they are very large."""

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

IN_MEMORY_BYTES = 100_000_000
"""A larger file is read piece by piece: who has a scan of gigabytes has not the memory for it twice."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What is decoded, at its beginning, and all its bytes where they are in memory."""

    file: IO[bytes]
    content: bytes | None


@contextlib.contextmanager
def open_data(data: bytes | Path, name: str) -> Iterator[Opened]:
    """Open what is to be decoded. Raises SourceError: not_found, not_an_image."""
    if isinstance(data, bytes):
        yield Opened(io.BytesIO(data), data)
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(os.fdopen(_open_regular(data, name), "rb"))
            content = None
            if os.fstat(file.fileno()).st_size <= IN_MEMORY_BYTES:
                content = file.read(IN_MEMORY_BYTES + 1)
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}", code="not_found") from None
        except ValueError:
            raise SourceError(f"{name} is not a possible file name", code="not_found") from None
        if content is None or len(content) > IN_MEMORY_BYTES:
            file.seek(0)
            yield Opened(file, None)
        else:
            yield Opened(io.BytesIO(content), content)


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
