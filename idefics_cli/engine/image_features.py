"""Runs each distinct image through the vision tower once; keeps features by digest, bounded in bytes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from torch import Tensor

from ..lru import LRUCache
from ..models.devices import find_input_device
from ..models.families.family import Pixels
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from .vision_ahead import VISION_PACES, VisionAhead, VisionPace, name_shape


class Features:
    """The image features that a family's text attends to. One processor with fixed settings made all images."""

    def __init__(
        self,
        model: Any,
        family: PlaceholderFamily,
        store: LRUCache[Any, Any],
        pace: VisionPace | None = None,
    ) -> None:
        self._model = model
        self._family = family
        self._store = store
        self._pace = pace or VISION_PACES.get(find_input_device(model).type, VISION_PACES["cpu"])
        self.ahead = VisionAhead(family, store, self._pace)
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
        by_shape: dict[Hashable, list[str]] = {}
        for digest, pixels in missing.items():
            by_shape.setdefault(name_shape(pixels), []).append(digest)
        for digests in by_shape.values():
            for batch in self._split(digests, missing):
                images = {digest: missing[digest] for digest in batch}
                made: dict[str, Tensor] = {}
                if batch[-1] == digests[-1]:
                    made = self._encode_ahead(images, (*found, *missing))
                made = made or self._encode(images)
                found |= {digest: made[digest] for digest in batch}
        return found

    def _encode_ahead(self, images: Mapping[str, Pixels], known: Iterable[str]) -> dict[str, Tensor]:
        """The features of images, in one pass with those of others that wait; none if it does not go well."""
        ahead: dict[str, Pixels] = {}
        try:
            ahead = self.ahead.choose(known, images)
            return self._encode({**images, **ahead}) if ahead else {}
        except Exception as error:
            self.ahead.refuse(ahead, error)
            return {}

    def _encode(self, images: Mapping[str, Pixels]) -> dict[str, Tensor]:
        made = self._family.encode_images(self._model, list(images.values()))
        # A view would keep the features of the whole pass in memory.
        kept = {digest: features.clone() for digest, features in zip(images, made, strict=True)}
        for digest, features in kept.items():
            self.ahead.note(images[digest], features)
            self._store.keep(("image", digest), features, features.nbytes)
        return kept

    def _split(self, digests: Iterable[str], pixels: Mapping[str, Pixels]) -> list[list[str]]:
        batches: list[list[str]] = []
        room = 0
        for digest in digests:
            tiles = self._family.count_tiles(pixels[digest])
            if not batches or tiles > room or self._family.sees_alone:
                batches.append([])
                room = self._pace.tiles
            batches[-1].append(digest)
            room -= tiles
        return batches
