"""Runs each distinct image through the vision tower once; keeps features by digest, bounded in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ..lru import LRUCache
from ..models.families.family import Pixels
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from ..models.memory.estimate import TILES_AT_ONCE


class Features:
    """The image features that a family's text attends to. One processor with fixed settings made all images."""

    def __init__(self, model: Any, family: PlaceholderFamily, store: LRUCache[Any, Any]) -> None:
        self._model = model
        self._family = family
        self._store = store
        self.hits = self.misses = 0

    def gather(self, token_ranges: Iterable[TokenRange]) -> dict[str, Tensor]:
        """The features of these image tokens, by digest; missing ones are computed together."""
        found: dict[str, Tensor] = {}
        missing: dict[str, Pixels] = {}
        for token_range in token_ranges:
            for index in self._family.find_images(token_range):
                digest = token_range.encoded.spans[index].digest
                if digest in found or digest in missing:
                    continue
                known = self._store.find(("image", digest))
                if known is None:
                    missing[digest] = token_range.encoded.pixels[index]
                else:
                    found[digest] = known
        self.hits += len(found)
        self.misses += len(missing)
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for digest, pixels in missing.items():
            by_shape.setdefault(tuple(pixels.values.shape[1:]), []).append(digest)
        for digests in by_shape.values():
            for batch in _split(digests, missing):
                made = self._family.encode_images(self._model, [missing[digest] for digest in batch])
                for digest, features in zip(batch, made, strict=True):
                    # A view would keep the features of the whole pass in memory.
                    found[digest] = features.clone()
                    size = features.numel() * features.element_size()
                    self._store.keep(("image", digest), found[digest], size)
        return found


def _split(digests: Iterable[str], pixels: dict[str, Pixels]) -> list[list[str]]:
    batches: list[list[str]] = []
    room = 0
    for digest in digests:
        tiles = int(pixels[digest].values.shape[0])
        if not batches or tiles > room:
            batches.append([])
            room = TILES_AT_ONCE
        batches[-1].append(digest)
        room -= tiles
    return batches
