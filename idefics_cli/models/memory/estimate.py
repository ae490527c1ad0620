"""How many bytes a checkpoint needs: weights at each precision, keys and values, activations.

Pure arithmetic on dimensions, so it is known before anything is downloaded or loaded. Weights are exact to a few bytes;
activations are an estimate: the largest tensors that exist at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..dimensions import COLOURS, Dimensions, Linears
from ..quantization.table import QUANTIZATIONS

TILES_AT_ONCE = 16
"""Tiles in one pass of the vision tower: more fill no machine better, and their activations are the largest of all."""
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})
_BLOCK, _OUTER_BLOCK = 64, 256  # bitsandbytes: weights of one scale, scales of one outer scale
_SCALE = 4
_CODE = 16 * 4  # the values that four bits stand for


@dataclass(frozen=True, slots=True)
class Precision:
    """How weights are stored: the quantized ones in so many bits, the rest in `dtype`."""

    dtype: str
    quantization: str | None = None

    @property
    def label(self) -> str:
        """Short name: fp32, bf16, 8bit, int8, 4bit."""
        short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.dtype]
        return self.quantization or short


@dataclass(frozen=True, slots=True)
class Demand:
    """The largest batch that is asked."""

    tokens: int = 2048
    """Of each request: its prompt, without images, and its answer."""
    batch_size: int = 1
    images: int = 1
    """In each request."""
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes, part by part."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations


def estimate(dimensions: Dimensions, precision: Precision, demand: Demand) -> Need:
    """The bytes for a demand at a precision."""
    return Need(
        weights=count_weight_bytes(dimensions, precision),
        cache=count_cache_bytes(dimensions, precision, demand),
        activations=max(
            count_vision_bytes(dimensions, precision, demand), count_text_bytes(dimensions, precision, demand)
        ),
    )


def count_weight_bytes(dimensions: Dimensions, precision: Precision) -> int:
    """Bytes of the weights: the quantized ones with their scales, the rest in the dtype."""
    value = DTYPE_BYTES[precision.dtype]
    if precision.quantization is None:
        return dimensions.parameters * value
    rest = (dimensions.parameters - count_quantized(dimensions)) * value
    return rest + count_quantized_bytes(dimensions, precision)


def count_quantized(dimensions: Dimensions) -> int:
    """The weights that are quantized; the others are not."""
    return sum(linears.weights for linears in dimensions.linears)


def count_quantized_bytes(dimensions: Dimensions, precision: Precision) -> int:
    """Bytes of the quantized layers alone, their scales included."""
    row = QUANTIZATIONS[str(precision.quantization)]
    scale = DTYPE_BYTES[precision.dtype] if row.scale_is_wide else _SCALE
    if row.bytes_per_weight < 1:
        return sum(_count_4bit(linears) for linears in dimensions.linears)
    return sum(linears.weights + linears.count * linears.rows * scale for linears in dimensions.linears)


def count_token_bytes(dimensions: Dimensions, precision: Precision) -> int:
    """Bytes that one token keeps in the cache: a key and a value in every layer."""
    return 2 * dimensions.layers * dimensions.kv_width * DTYPE_BYTES[precision.dtype]


def count_tokens(dimensions: Dimensions, demand: Demand) -> int:
    """The tokens of one request, those of its images included."""
    return demand.tokens + demand.images * count_tiles(dimensions, demand.detail) * dimensions.tile_tokens


def count_tiles(dimensions: Dimensions, detail: str | None) -> int:
    """The largest number of tiles of one square image."""
    return dimensions.tiles.get(detail, dimensions.tiles[None])


def count_cache_bytes(dimensions: Dimensions, precision: Precision, demand: Demand) -> int:
    """Bytes of the keys and values of a whole batch."""
    return count_tokens(dimensions, demand) * demand.batch_size * count_token_bytes(dimensions, precision)


def count_pass_tiles(dimensions: Dimensions, demand: Demand) -> int:
    """Tiles that go through the vision tower together. An image is never split between two passes."""
    each = count_tiles(dimensions, demand.detail)
    return max(each, min(TILES_AT_ONCE, each * demand.images * demand.batch_size)) if demand.images else 0


def count_vision_bytes(dimensions: Dimensions, precision: Precision, demand: Demand) -> int:
    """Bytes of one pass of the vision tower: pixels, then per patch two widths and two inner widths."""
    value = DTYPE_BYTES[precision.dtype]
    patch = 2 * (dimensions.vision_width + dimensions.vision_inner_width) * value
    pixels = COLOURS * dimensions.tile_pixels * DTYPE_BYTES["float32"]
    return count_pass_tiles(dimensions, demand) * (pixels + dimensions.patches * patch)


def count_text_bytes(dimensions: Dimensions, precision: Precision, demand: Demand) -> int:
    """Bytes of reading the prompts: per token two widths and three inner ones; the features; a row of logits each."""
    value = DTYPE_BYTES[precision.dtype]
    token = (2 * dimensions.width + 3 * dimensions.inner_width) * value
    tiles = demand.images * count_tiles(dimensions, demand.detail)
    features = tiles * dimensions.tile_features * dimensions.feature_width * value
    logits = dimensions.vocabulary * DTYPE_BYTES["float32"]
    return demand.batch_size * (count_tokens(dimensions, demand) * token + features + logits)


def _count_4bit(linears: Linears) -> int:
    """Half a byte a weight, a byte of scale a block, a float a block of scales; offset and code of each layer."""
    weights = linears.rows * linears.columns
    blocks = -(-weights // _BLOCK)
    outer = -(-blocks // _OUTER_BLOCK)
    return linears.count * (-(-weights // 2) + blocks + _SCALE * (outer + 1) + _CODE)
