"""Copies of images that rows name: their bytes, and a name with the suffix of their format."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadItem, SourceError
from ..files import name_kind
from ..images import Limits, has_image_suffix, name_source, read
from ..review.summary import read_sources

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
)


def read_sample(row: Mapping[str, Any], limits: Limits) -> tuple[str, bytes]:
    """The name and the bytes of an answered row's image. Raises ItemError for a row that is no sample to train from."""
    if row.get("error") is not None:
        raise BadItem("it failed, so there is nothing to learn from it")
    sources = read_sources(row)
    if len(sources) != 1:
        raise BadItem(f"it has {len(sources)} images, but a sample has one")
    return read_image(sources[0], limits)


def read_image(source: str, limits: Limits) -> tuple[str, bytes]:
    """The name of the copy, and its bytes. Raises SourceError."""
    try:
        data = read(source, limits)
        if isinstance(data, Path):
            if (kind := name_kind(os.stat(data).st_mode)) is not None:
                raise SourceError(f"{name_source(source)} is {kind}", code="not_an_image")
            data = data.read_bytes()
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        raise SourceError(f"{name_source(source)} can no longer be read", code="not_found") from None
    return _name_copy(source, data[:16]), data


def _name_copy(source: str, head: bytes) -> str:
    """A name that is safe on every file system and in a shell, with the suffix of the format."""
    bare = "image" if source[:5].lower() == "data:" else re.split("[?#]", source)[0]
    stem, suffix = os.path.splitext(os.path.basename(bare))
    if not has_image_suffix(f"x{suffix}"):
        suffix = next((found for start, found in _SUFFIXES if head.startswith(start)), "")
    if not suffix:
        raise SourceError(f"{name_source(source)} has an unknown image format", code="not_an_image")
    return f"{_UNSAFE.sub('_', stem)[:80]}{suffix.lower()}"
