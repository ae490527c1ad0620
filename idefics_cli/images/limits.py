"""How much one source may cost: pixels, bytes, seconds, tries, and which addresses it may use; and how many pixels it
has, from its header.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from ..errors import SourceError
from .formats import COMMON

UNKNOWN_PIXELS = 12_000_000
"""Of a file whose head is not one of the common ones."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of reading a source; each applies to a single source.

    `max_bytes` limits what is read from URLs and standard input. Local files are limited by `max_pixels` alone.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 100_000_000
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent areas are put on."""
    draft_edge: int | None = None
    """The longer edge that a model makes of an image: a JPEG of more than four times it is decoded smaller."""
    decode_seconds: float = 30.0
    """For making pixels of what was read. A photo takes a tenth of a second; a file made to be slow never ends."""
    dpi: int = 150
    """At which pages of documents are drawn."""
    connect_timeout_seconds: float = 10.0
    total_timeout_seconds: float = 60.0
    """For everything a URL needs: redirects, retries and the waits between them."""
    allow_private_addresses: bool = True
    """False where strangers choose the URLs: only public addresses are connected to, and without a proxy."""
    attempts: int = 3
    backoff_seconds: float = 0.5
    """Before the second attempt; doubles from there."""
    max_retry_after_seconds: float = 20.0
    """A server that asks for a longer pause is not asked again."""


def check_size(width: int, height: int, name: str, limits: Limits) -> None:
    """Raise SourceError if there are no pixels, or too many."""
    if width < 1 or height < 1:
        raise SourceError(f"{name} has no pixels ({width} x {height})", code="not_an_image")
    if width * height > limits.max_pixels:
        raise SourceError(
            f"{name} has {width} x {height} pixels, more than the limit of {limits.max_pixels:,}",
            code="too_large",
            hint="make it smaller first",
        )


def count_pixels(data: bytes | Path) -> int:
    """The pixels of a file, to reserve memory for. Nothing is decoded; damage is reported by the decoder."""
    try:
        with PIL.Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=COMMON) as image:
            return image.width * image.height
    except Exception:
        return UNKNOWN_PIXELS
