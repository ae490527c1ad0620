"""Small pictures of a row's images, made by the one decoder and kept on disk under the digest of what they are from."""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import SourceError
from ..files import write_file
from ..images import Limits, decode, is_url, name_source, read
from ..results.objects import is_bucket

Size = Literal["small", "large"]
EDGES: dict[Size, int] = {"small": 256, "large": 1400}
MAX_CACHE_BYTES = 1_000_000_000
MEDIA_TYPE = "image/webp"
# A row may be a stranger's: what it names in this machine's own network is not asked for.
LIMITS = Limits(allow_private_addresses=False, total_timeout_seconds=20.0, attempts=1)
BUCKET_LIMITS = replace(LIMITS, allow_private_addresses=True)
"""Where a bucket is, is said by the driver's settings, not by a row."""


class Thumbnails:
    """Pictures for the rows of files in these folders, cached in another. May be asked from several threads."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def make(self, source: str, folder: Path, size: Size) -> bytes:
        """A picture of one image in WebP. Paths are as the run had them, or relative to the file of rows.

        Raises SourceError.
        """
        if source == "-":
            raise SourceError("it came from standard input and was not kept", code="not_found")
        limits = BUCKET_LIMITS if is_bucket(source) else LIMITS
        data = read(source, limits) if is_url(source) else find_file(source, folder)
        key = digest_content(data)
        path = self._cache / key[:2] / f"{key}-{EDGES[size]}.webp"
        with suppress(OSError):
            return path.read_bytes()
        pixels = decode(data, source, LIMITS).pixels
        pixels.thumbnail((EDGES[size], EDGES[size]), reducing_gap=2.0)
        buffer = io.BytesIO()
        pixels.save(buffer, "WEBP", quality=80, method=2)
        with suppress(OSError):  # a full disk is no reason not to show it
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, buffer.getvalue())
        return buffer.getvalue()

    def prune(self) -> None:
        """Remove the oldest until the cache is small enough."""
        files = [(path.stat(), path) for path in self._cache.glob("*/*.webp")]
        left = sum(status.st_size for status, _ in files) - MAX_CACHE_BYTES
        for status, path in sorted(files, key=lambda each: each[0].st_mtime):
            if left <= 0:
                return
            path.unlink(missing_ok=True)
            left -= status.st_size


def find_file(source: str, folder: Path) -> Path:
    """The file of a source, where the run had it or beside the rows."""
    with suppress(ValueError):  # no name of a file at all
        if os.path.exists(source):
            return Path(source)
    return folder / source


def digest_content(data: bytes | Path) -> str:
    """A digest of the bytes of an image. Raises SourceError for a file that cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(data, bytes):
        digest.update(data)
        return digest.hexdigest()
    try:
        if not data.is_file():
            raise SourceError(f"{name_source(data.name)} is not there", code="not_found")
        with data.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{name_source(data.name)} cannot be read: {reason}", code="not_found") from error
    return digest.hexdigest()
