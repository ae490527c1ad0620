"""The quantized weights on disk: where they are, their size, and their removal. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import user_cache
from ...files import count_folder_bytes

ORIGIN = "origin.json"


@dataclass(frozen=True, slots=True)
class QuantizedEntry:
    """The place for the quantized weights of a spec, and what they depend on."""

    folder: Path
    origin: Mapping[str, Any]

    @property
    def is_there(self) -> bool:
        return (self.folder / ORIGIN).is_file()


def quantized_root() -> Path:
    return user_cache() / "quantized"


def list_entries() -> Iterator[tuple[Path, int]]:
    """The folders of all entries and their bytes."""
    try:
        folders = sorted(quantized_root().iterdir())
    except OSError:
        return
    for folder in folders:
        if (folder / ORIGIN).is_file():
            yield folder, count_folder_bytes(folder)


def remove_entries(checkpoint: str) -> int:
    """Remove all entries of a checkpoint; returns the bytes freed."""
    name, freed = name_checkpoint(checkpoint), 0
    for folder, size in list(list_entries()):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["checkpoint"] == name:
                shutil.rmtree(folder)
                freed += size
    return freed


def name_checkpoint(checkpoint: str) -> str:
    """A checkpoint in the name of an entry: the whole path of a folder, or the hub id."""
    folder = Path(checkpoint)
    return str(folder.resolve()) if folder.is_dir() else checkpoint
