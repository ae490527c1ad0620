"""Copies of images that rows name: their bytes, and a name with the suffix of their format."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import SourceError
from ..files import name_kind
from ..images import Limits, has_image_suffix, name_source, read

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
)


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
