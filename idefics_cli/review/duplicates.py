"""Rows whose first images have the same content under different names."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from ..errors import SourceError
from ..images import is_url
from .columns import is_repeated
from .filter import Mask
from .index import RowIndex
from .summary import read_sources
from .thumbnails import digest_content, find_file

TELL_EVERY = 500


def find_duplicates(index: RowIndex, tell: Callable[[int, int], bool]) -> Mask | None:
    """Which rows show the same image as another row. `tell` gets the progress, and returns whether to stop.

    Only files of equal size are read; several rows with one path are one image, and no duplicates.
    """
    count, generation = index.count, index.generation
    keys = np.arange(count, dtype=np.int64) - count  # all different, and no hash of a size
    paths: dict[str, int] = {}
    sizes: dict[int, list[tuple[int, str]]] = {}
    for row in range(count):
        if row % TELL_EVERY == 0 and (tell(row, count) or index.generation != generation):
            return None
        sources = read_sources(index.read(row))[:1]
        if not sources or sources[0] == "-" or is_url(sources[0]):
            continue
        path = os.path.abspath(find_file(sources[0], index.paths[index.file_of(row)].parent))
        if path in paths:
            continue
        paths[path] = row
        try:
            sizes.setdefault(os.stat(path).st_size, []).append((row, path))
        except (OSError, ValueError):
            continue
    for same in sizes.values():
        if len(same) == 1:
            continue
        for row, path in same:
            if tell(row, count):
                return None
            try:
                keys[row] = hash(digest_content(find_file(path, index.paths[0].parent))) >> 1
            except SourceError:
                continue
    return is_repeated(keys)
