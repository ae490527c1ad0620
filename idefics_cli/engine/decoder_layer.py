"""One token of each row through one layer of a decoder laid out like LLaMA's: a function of tensors and products alone.

Nothing in it belongs to one layer, to so many rows or columns, so one compiled form serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from .attend import Attend
from .matrices import Matrix


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What all layers have in common: the sizes of hidden states and of gate and up together, how many heads of queries
    and of keys and the size of one, what scores are multiplied with, and the epsilon of norms.
    """

    hidden: int
    gate_up: int
    queries: int
    keys: int
    head: int
    scaling: float
    epsilon: float

    @property
    def is_shared(self) -> bool:
        """Whether several heads of queries share one of keys."""
        return self.queries > self.keys


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The weights of two norms and the four products."""

    first_norm: Tensor
    second_norm: Tensor
    inward: Matrix
    outward: Matrix
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the tokens of a step are: their positions' rotations, their column, and which columns they see."""

    cos: Tensor
    sin: Tensor
    column: Tensor
    mask: Tensor


RunLayer = Callable[[Tensor, Layer, Place, Tensor, Tensor], Tensor]
"""The hidden states of rows after a layer; keys and values of their tokens are written to its buffers."""


def run_layer(
    hidden: Tensor,
    layer: Layer,
    place: Place,
    keys: Tensor,
    values: Tensor,
    *,
    shape: LayerShape,
    attend: Attend,
) -> Tensor:
    rows, half = len(hidden), shape.head // 2
    normed = rms_norm(hidden, (shape.hidden,), layer.first_norm, shape.epsilon)
    joined = layer.inward(normed).view(rows, -1, 1, shape.head)
    turned = joined[:, : shape.queries + shape.keys]
    across = torch.cat((-turned[..., half:], turned[..., :half]), -1)
    turned = turned * place.cos + across * place.sin
    keys.index_copy_(2, place.column, turned[:, shape.queries :])
    values.index_copy_(2, place.column, joined[:, shape.queries + shape.keys :])
    asked = turned[:, : shape.queries].reshape(rows, shape.keys, -1, shape.head)
    found = attend(asked, keys, values, place.mask, shape.scaling)
    hidden = hidden + layer.outward(found.reshape(rows, -1))
    normed = rms_norm(hidden, (shape.hidden,), layer.second_norm, shape.epsilon)
    gate, up = layer.gate_up(normed).chunk(2, dim=-1)
    return hidden + layer.down(silu(gate) * up)
