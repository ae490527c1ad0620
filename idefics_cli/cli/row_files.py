"""The files of rows that commands read: local ones, standard input, or copies from a bucket."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..config import place_state
from ..errors import UsageError
from ..images.names import parse_scheme
from ..url_secrets import hide_secrets
from .output import say

_COPY_BYTES = 1 << 20


@contextmanager
def open_rows(rows: str) -> Iterator[Path]:
    """The file of rows; standard input and a bucket are copied to a file, because rows are read twice."""
    if _is_elsewhere(rows):
        with tempfile.TemporaryDirectory() as folder:
            yield _fetch(rows, Path(folder))
        return
    if rows != "-":
        if not Path(rows).is_file():
            raise UsageError(f"{rows} is not a file of rows", hint="make one with --output rows.jsonl")
        yield Path(rows)
        return
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed", hint="pipe rows into it")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        with open(path, "wb") as copy:
            while block := sys.stdin.buffer.read(_COPY_BYTES):
                copy.write(block)
        yield path


@contextmanager
def open_files(names: Sequence[str], *, keeps: bool = False) -> Iterator[tuple[Path, ...]]:
    """Files by their names; those in a bucket as copies, which are kept if corrections are."""
    with ExitStack() as held:

        def open_one(name: str) -> Path:
            return keep_copy(name) if keeps or not _is_elsewhere(name) else held.enter_context(open_rows(name))

        yield tuple(map(open_one, names))


def keep_copy(rows: str) -> Path:
    """A file of rows; one in a bucket is copied to where its corrections are kept."""
    if not _is_elsewhere(rows):
        return Path(rows)
    return _fetch(rows, place_state("reviews", rows.rstrip("/")))


def _fetch(rows: str, folder: Path) -> Path:
    from ..results.parts import fetch_rows

    path = folder / rows.rstrip("/").rpartition("/")[2]
    if not fetch_rows(rows, path):
        say(f"{hide_secrets(rows)} has no manifest: the run that makes it has not ended")
    return path


def _is_elsewhere(name: str) -> bool:
    return parse_scheme(name) not in (None, "data", "file")
