"""How many pixels an image has, from its header: to reserve memory before it is decoded."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image

from .formats import COMMON

UNKNOWN_PIXELS = 12_000_000
"""Of a file whose head is not one of the common ones."""


def count_pixels(data: bytes | Path) -> int:
    """The pixels of a file. Nothing is decoded; damage is reported by the decoder."""
    try:
        with PIL.Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=COMMON) as image:
            return image.width * image.height
    except Exception:
        return UNKNOWN_PIXELS
