"""Which images of waiting requests fill up a pass of the vision tower: its batches are its own, however few rows join.

Only what stays in the cache until it is used, beside all that is needed before it. Knows neither plans nor prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..lru import LRUCache
from ..models.devices import is_out_of_memory
from ..models.families.family import Pixels
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from ..models.memory.estimate import TILES_AT_ONCE

REFUSED = 256
"""How many images that failed a pass are remembered."""
PATIENCE = 16
"""How many passes hold only what is needed after memory was short."""

Waiting = Callable[[], Iterable[tuple[TokenRange, int]]]
"""The tokens that wait, in their order, and the bytes of the cache that each needs besides its images."""


@dataclass(frozen=True, slots=True)
class VisionPace:
    """How many tiles go through the vision tower together, and whether waiting images fill up a pass."""

    tiles: int
    looks_ahead: bool


VISION_PACES = {"cpu": VisionPace(4, False), "cuda": VisionPace(TILES_AT_ONCE, True)}
"""On a CPU a tile costs 1 to 7 % less among four than alone, and among 16 up to a fifth more; images of many tiles cost
up to a half more together (the small random towers, one thread of a Zen 4): there, looking ahead gains nothing."""


def name_shape(pixels: Pixels) -> Hashable:
    """Images of equal names go through the vision tower together."""
    return tuple(pixels.values.shape[1:])


class VisionAhead:
    """Chooses images by the planned order, and learns from what they took."""

    def __init__(self, family: PlaceholderFamily, store: LRUCache[Any, Any], pace: VisionPace) -> None:
        self._family = family
        self._store = store
        self._tiles = pace.tiles if pace.looks_ahead else 0
        self._waiting: Waiting | None = None
        self._refused: LRUCache[str, bool] = LRUCache(REFUSED)
        self._resting = 0
        self._density = 0.0
        """Bytes of features for a value of pixels; unknown before the first pass."""

    def expect(self, waiting: Waiting | None) -> None:
        """Look ahead among these from now on."""
        self._waiting = waiting

    def note(self, pixels: Pixels, features: Tensor) -> None:
        """Learn how large features become."""
        self._density = max(self._density, features.nbytes / pixels.values.numel())

    def rest(self) -> None:
        """Do without for some passes."""
        self._resting = PATIENCE

    def refuse(self, images: Iterable[str], error: BaseException) -> None:
        """Fewer tiles from now on where memory was short, and these no more where it was something else."""
        if is_out_of_memory(error):
            self._tiles //= 2
            return
        for digest in images:
            self._refused.keep(digest, True)

    def choose(self, found: Iterable[str], missing: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """The images that join a pass of missing ones, which have one shape."""
        if self._resting:
            self._resting -= 1
            return {}
        if self._waiting is None or not self._density or self._family.sees_alone:
            return {}
        some = next(iter(missing.values()))
        room = self._tiles - sum(map(self._family.count_tiles, missing.values()))
        chosen: dict[str, Pixels] = {}
        if room < 1:
            return chosen
        seen = {*found, *missing}
        needed = sum(map(self._foresee, missing.values()))
        for token_range, held_bytes in self._waiting():
            needed += held_bytes
            for index in self._family.find_images(token_range):
                digest, pixels = token_range.encoded.spans[index].digest, token_range.encoded.pixels[index]
                if digest in seen:
                    continue
                seen.add(digest)
                needed += self._store.touch(("image", digest)) or self._foresee(pixels)
                if room < 1 or needed > self._store.limit_bytes:
                    return chosen
                tiles = self._family.count_tiles(pixels)
                is_new = ("image", digest) not in self._store and self._refused.find(digest) is None
                if is_new and tiles <= room and name_shape(pixels) == name_shape(some):
                    chosen[digest] = pixels
                    room -= tiles
        return chosen

    def _foresee(self, pixels: Pixels) -> int:
        """The bytes that the features of an image will have."""
        return math.ceil(self._density * pixels.values.numel())
