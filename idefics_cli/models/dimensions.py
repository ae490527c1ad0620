"""The sizes of an architecture that memory depends on, and the layers that all architectures have.

Plain values and arithmetic, without torch. Each family reads its own from a config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
OPEN = ConfigDict(extra="ignore")  # a config.json says much else
COLOURS = 3


@dataclass(frozen=True, slots=True)
class Linears:
    """Equal linear layers of the language model: how many, and the rows (outputs) and columns of each."""

    count: int
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        return self.count * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of an architecture that memory depends on."""

    architecture: str
    parameters: int
    """All weights, shared ones once."""
    linears: tuple[Linears, ...]
    """What is quantized: not the vision tower, the connector or resampler, nor the output head."""
    layers: int
    kv_width: int
    """Keys of one token in one layer; its values are as many."""
    width: int
    inner_width: int
    vocabulary: int
    vision_width: int
    vision_inner_width: int
    patches: int
    """Positions of one tile in the vision tower."""
    tile_pixels: int
    tile_features: int
    """Vectors of one tile that the text sees."""
    feature_width: int
    tile_tokens: int
    """Tokens of the prompt that a tile takes up."""
    tiles: Mapping[str | None, int] = field(default_factory=lambda: {None: 1})
    """Tiles of one square image at each `--detail`; None is without one."""


def list_mlp(layers: int, hidden: int, inner: int) -> tuple[Linears, Linears]:
    """The gate and up projections, and the down projection, of each layer."""
    return Linears(2 * layers, inner, hidden), Linears(layers, hidden, inner)


def count_tower(width: int, inner: int, layers: int, patch: int) -> int:
    """Patches and layers of a vision tower; positions and the outer norms differ by architecture."""
    attention = 4 * (width * width + width)
    mlp = 2 * width * inner + inner + width
    return COLOURS * patch * patch * width + layers * (attention + mlp + 4 * width)
