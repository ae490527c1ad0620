"""Which texts beside images this program wrote, and for which wording: a hidden file in each of their folders.

A text that was changed later counts as a person's. Without the index, which may be deleted, all texts do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..content import MARK_BYTES, UNKNOWN
from ..files import append_whole, read_file, write_file
from ..lru import LRUCache

NAME = ".idefics-sidecars.jsonl"
MAX_BYTES = 200_000_000
FOLDERS = 64
"""Folders whose index is remembered: images come folder by folder."""
SPARE_LINES = 1000
"""Lines about texts that were replaced since, before an index is written anew."""


class Origin(NamedTuple):
    """What a text was written for: its wording, and the mark of its image."""

    wording: str
    image: bytes = UNKNOWN


Known = dict[str, dict[str, Origin]]


class SidecarIndex:
    """The digests of texts by name, each with its origin."""

    def __init__(self) -> None:
        self._folders: LRUCache[Path, Known] = LRUCache(FOLDERS)

    def find(self, path: Path, content: bytes) -> Origin | None:
        """The origin of a text; None if this program did not write it, or not like this."""
        return self._read(path.parent).get(path.name, {}).get(_digest(content))

    def note(self, path: Path, content: bytes, origin: Origin) -> None:
        """Record a text that is about to be written. Raises OSError."""
        digest = _digest(content)
        self._read(path.parent).setdefault(path.name, {})[digest] = origin
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe is not waited for
        file = os.open(path.parent / NAME, flags, 0o666)
        try:
            append_whole(file, _dump(path.name, digest, origin))
        finally:
            os.close(file)

    def _read(self, folder: Path) -> Known:
        known = self._folders.find(folder)
        if known is None:
            known = self._load(folder)
            self._folders.keep(folder, known, 1)
        return known

    def _load(self, folder: Path) -> Known:
        known: Known = {}
        with suppress(OSError):
            lines = read_file(folder / NAME, MAX_BYTES).splitlines()
            for name, digest, origin in _parse(lines):
                known.setdefault(name, {})[digest] = origin
            if len(lines) > 2 * len(known) + SPARE_LINES:
                known = {name: dict([list(texts.items())[-1]]) for name, texts in known.items()}
                write_file(folder / NAME, b"".join(_list_lines(known)))
        return known


def _parse(lines: list[bytes]) -> Iterator[tuple[str, str, Origin]]:
    """The entries of the lines; invalid lines are left out."""
    for line in lines:
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            entry = json.loads(line)
            mark = bytes.fromhex(entry.get("image", "")).ljust(MARK_BYTES, b"\0")
            yield str(entry["name"]), str(entry["digest"]), Origin(str(entry["wording"]), mark)


def _list_lines(known: Known) -> Iterator[bytes]:
    for name, texts in known.items():
        for digest, origin in texts.items():
            yield _dump(name, digest, origin)


def _dump(name: str, digest: str, origin: Origin) -> bytes:
    image = {} if origin.image == UNKNOWN else {"image": origin.image.hex()}
    entry = {"name": name, "digest": digest, "wording": origin.wording, **image}
    return f"{json.dumps(entry)}\n".encode("ascii")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
