"""Answers as metadata of their images: in an XMP file beside an image, or in the image file itself.

A description that this program did not write belongs to a person, like any other text beside an image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ..content import has_changed
from ..errors import BadItem
from ..files import read_file, write_file
from .embedding import embed_packet, find_packet
from .sidecar_index import Origin
from .sidecars import Sidecars, SidecarState, cannot_write
from .xmp import Metadata, read_description, write_packet

MAX_XMP_BYTES = 10_000_000
MAX_IMAGE_BYTES = 1_000_000_000


class XmpSidecars(Sidecars):
    """cat.xmp beside cat.jpg, where Lightroom, digiKam and darktable look. Its other content is kept."""

    def has(self, source: str) -> bool:
        return self._describe(source) is not None

    def inspect(self, source: str, wording: str) -> SidecarState:
        """Who wrote the description of a source."""
        path = self.path_of(source)
        try:
            description = self._describe(source)
        except BadItem:
            return "none"  # and why nothing can be written is told when it is
        if path is None or description is None:
            return "none"
        origin = self.index.find(path, description.encode("utf-8", "replace"))
        if origin is None:
            return "foreign"
        if origin.wording != wording:
            return "other"
        return "changed" if not self.is_of_image and has_changed(origin.image, [source]) else "same"

    def read(self, source: str) -> str | None:
        try:
            return self._describe(source)
        except BadItem:
            return None

    def write(self, source: str, text: str, origin: Origin | None = None, keywords: Sequence[str] = ()) -> None:
        """Write a text and keywords into the metadata of a source. Raises BadItem if they cannot be stored there."""
        path = self.path_of(source)
        assert path is not None, "check was not called"
        try:
            content = self._compose(path, Metadata(text, tuple(keywords)))
            if origin is not None:
                self.index.note(path, text.encode("utf-8", "replace"), origin)
            write_file(Path(os.path.realpath(path)), content)
        except OSError as error:
            raise cannot_write(path, error) from error

    def _describe(self, source: str) -> str | None:
        """The description of a source, if it has one. Raises BadItem for metadata that cannot be read."""
        path = self.path_of(source)
        try:
            packet = None if path is None else self._read_packet(path)
        except OSError:
            return None
        return None if packet is None else read_description(packet)

    def _read_packet(self, path: Path) -> bytes | None:
        return read_file(path, MAX_XMP_BYTES) if os.path.lexists(path) else None

    def _compose(self, path: Path, metadata: Metadata) -> bytes:
        return write_packet(self._read_packet(path), metadata)


class EmbeddedMetadata(XmpSidecars):
    """The XMP packet within a JPEG, PNG or WebP. Every byte around it stays."""

    is_of_image: ClassVar[bool] = True

    def path_of(self, source: str) -> Path | None:
        return None if super().path_of(source) is None else Path(source)

    def _read_packet(self, path: Path) -> bytes | None:
        return find_packet(read_file(path, MAX_IMAGE_BYTES))

    def _compose(self, path: Path, metadata: Metadata) -> bytes:
        image = read_file(path, MAX_IMAGE_BYTES)
        return embed_packet(image, write_packet(find_packet(image), metadata))
