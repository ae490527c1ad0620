"""About how long an image takes: the arithmetic of reading it and the bytes of writing an answer, at a machine's rates.

A rough figure that tells seconds from minutes before anything is loaded. The rates of a CPU are measured in a tenth of
a second; those of a card are those of the slowest of today's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ..dimensions import Dimensions
from .estimate import Precision, count_quantized, count_tiles, count_weight_bytes

ASKED_TOKENS, NEW_TOKENS = 64, 20
"""A question and its answer."""
UNPACKED = 3
"""How many times longer weights of fewer bits take on a CPU, which unpacks them first."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device computes and reads in a second."""

    operations: float
    read_bytes: float


CARD = Rates(2e13, 2e11)
_OPERATIONS_SHARE, _READ_SHARE = 0.35, 0.6
"""What of a card's published figures a model gets."""
_PUBLISHED = {
    "a10": (125e12, 0.6e12),
    "a100": (312e12, 2.04e12),
    "b200": (2250e12, 8e12),
    "h100": (989e12, 3.35e12),
    "h200": (989e12, 4.8e12),
    "l4": (121e12, 0.3e12),
    "l40s": (362e12, 0.864e12),
    "rtx3090": (71e12, 0.936e12),
    "rtx4090": (165e12, 1.008e12),
    "t4": (65e12, 0.32e12),
    "v100": (125e12, 0.9e12),
}
CARDS = {
    name: Rates(_OPERATIONS_SHARE * operations, _READ_SHARE * read) for name, (operations, read) in _PUBLISHED.items()
}
"""The rates of cards by their names: dense operations in 16 bits and bytes a second."""


def find_rates(kind: str) -> Rates:
    """The rates of a kind of memory's device."""
    return CARD if kind == "gpu" else _measure_cpu()


def estimate_seconds(
    dimensions: Dimensions, precision: Precision, rates: Rates, detail: str | None = None, *, rows: int = 1
) -> float:
    """Seconds for one image, a question and a short answer, in a batch of so many."""
    tiles = count_tiles(dimensions, detail)
    text = count_quantized(dimensions)
    words = 2 * dimensions.vocabulary * dimensions.width
    vision = max(0, dimensions.parameters - text - words)
    tokens = ASKED_TOKENS + tiles * dimensions.tile_tokens
    operations = 2 * text * (tokens + NEW_TOKENS) + 2 * vision * tiles * dimensions.patches
    slower = UNPACKED if precision.quantization is not None and rates is not CARD and rows == 1 else 1
    read = NEW_TOKENS * count_weight_bytes(dimensions, precision)
    return slower * (operations / rates.operations + read / rates.read_bytes / rows)


@cache
def _measure_cpu() -> Rates:
    """The best times of several matrix products and copies, as other programs may be running."""
    import numpy

    size = 512
    one = numpy.ones((size, size), numpy.float32)
    long = numpy.ones(8_000_000, numpy.float32)
    product = min(_time(lambda: one @ one) for _ in range(12))
    copy = min(_time(long.copy) for _ in range(6))
    return Rates(2 * size**3 / product, 2 * long.nbytes / copy)


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return max(time.perf_counter() - began, 1e-9)
