"""Which texts beside images this program wrote, and for which wording: a hidden file in each of their folders.

A text that was changed since is a person's. Without the index, which may be deleted, all texts are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..files import append_whole, read_file, write_file
from ..lru import LRUCache

NAME = ".idefics-sidecars.jsonl"
MAX_BYTES = 200_000_000
FOLDERS = 64
"""Folders whose index is remembered: images come folder by folder."""
SPARE_LINES = 1000
"""Lines about texts that were replaced since, before an index is written anew."""


class SidecarIndex:
    """Remembers by the names of texts their digests, each with what it was written for."""

    def __init__(self) -> None:
        self._folders: LRUCache[Path, dict[str, dict[str, str]]] = LRUCache(FOLDERS)

    def find(self, path: Path, content: bytes) -> str | None:
        """What a text was written for; None for one that this program did not write so."""
        return self._read(path.parent).get(path.name, {}).get(_digest(content))

    def note(self, path: Path, content: bytes, wording: str) -> None:
        """Remember a text that is about to be written. Raises OSError."""
        entry = {"name": path.name, "digest": _digest(content), "wording": wording}
        self._read(path.parent).setdefault(path.name, {})[entry["digest"]] = wording
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe is not waited for
        file = os.open(path.parent / NAME, flags, 0o666)
        try:
            append_whole(file, _dump(entry))
        finally:
            os.close(file)

    def _read(self, folder: Path) -> dict[str, dict[str, str]]:
        known = self._folders.find(folder)
        if known is None:
            known = self._load(folder)
            self._folders.keep(folder, known, 1)
        return known

    def _load(self, folder: Path) -> dict[str, dict[str, str]]:
        known: dict[str, dict[str, str]] = {}
        with suppress(OSError):
            lines = read_file(folder / NAME, MAX_BYTES).splitlines()
            for name, digest, wording in _parse(lines):
                known.setdefault(name, {})[digest] = wording
            if len(lines) > 2 * len(known) + SPARE_LINES:
                known = {name: dict([list(texts.items())[-1]]) for name, texts in known.items()}
                write_file(folder / NAME, b"".join(_list_lines(known)))
        return known


def _parse(lines: list[bytes]) -> Iterator[tuple[str, str, str]]:
    """What the lines say; those that say nothing are left out."""
    for line in lines:
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            entry = json.loads(line)
            yield str(entry["name"]), str(entry["digest"]), str(entry["wording"])


def _list_lines(known: dict[str, dict[str, str]]) -> Iterator[bytes]:
    for name, texts in known.items():
        for digest, wording in texts.items():
            yield _dump({"name": name, "digest": digest, "wording": wording})


def _dump(entry: dict[str, str]) -> bytes:
    return f"{json.dumps(entry)}\n".encode("ascii")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
