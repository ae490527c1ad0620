"""The gated cross-attention of IDEFICS in a decoding step: keys and values of each slot's image, at fixed addresses.

An image is projected to keys and values once, when its row joins; a step only reads them.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from .attend import choose_attend
from .matrices import Matrix, MatrixKind, normalize


@dataclass(frozen=True, slots=True, eq=False)
class SeenImages:
    """The keys and values that some rows attend to, by cross-attention layer, and which of them, if any."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    has_image: Tensor
    """One for a row that sees an image, else zero."""

    def select(self, rows: Sequence[int]) -> SeenImages:
        places = list(rows)
        layers = tuple((keys[places], values[places]) for keys, values in self.layers)
        return SeenImages(layers, self.mask[places], self.has_image[places])


class CrossLayer:
    """One cross-attention layer, its matrices joined as in the other layers."""

    def __init__(self, layer: Any, make: MatrixKind) -> None:
        attention = layer.cross_attn
        self._attention = attention
        self._heads = int(attention.num_heads)
        self._first_norm, self._second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self._queries: Matrix = make([attention.q_proj])
        self._outward: Matrix = make([attention.o_proj])
        self._gate_up: Matrix = make([layer.mlp.gate_proj, layer.mlp.up_proj])
        self._down: Matrix = make([layer.mlp.down_proj])
        self._attend = choose_attend(layer.alpha_cross_attn, is_shared=False)
        self._seeing = layer.alpha_cross_attn.detach().tanh().flatten()
        self._thinking = layer.alpha_dense.detach().tanh().flatten()

    @staticmethod
    def list_linears(layer: Any) -> list[list[Any]]:
        """The matrices of a step; those in one group are one product."""
        attention, mlp = layer.cross_attn, layer.mlp
        return [[attention.q_proj], [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of images."""
        attention = self._attention
        rows, patches, _ = states.shape
        keys, values = (
            matrix(states).view(rows, patches, self._heads, -1).transpose(1, 2)
            for matrix in (attention.k_proj, attention.v_proj)
        )
        return (attention.k_layer_norm(keys) if attention.qk_layer_norms else keys), values

    def run(self, hidden: Tensor, seen: tuple[Tensor, Tensor], mask: Tensor, has_image: Tensor) -> Tensor:
        """One token for each row."""
        rows = len(hidden)
        asked = self._queries(normalize(hidden, self._first_norm)).view(rows, self._heads, 1, -1)
        if self._attention.qk_layer_norms:
            norm = self._attention.q_layer_norm
            asked = rms_norm(asked, asked.shape[-1:], norm.weight, norm.variance_epsilon)
        found = self._attend(asked, *seen, mask, float(self._attention.scaling))
        hidden = hidden + self._seeing * self._outward(found.reshape(rows, -1)) * has_image
        gate, up = self._gate_up(normalize(hidden, self._second_norm)).chunk(2, dim=-1)
        thought: Tensor = hidden + self._thinking * self._down(silu(gate) * up)
        return thought


def see_images(layers: Sequence[CrossLayer], images: Mapping[str, Tensor]) -> SeenImages:
    """What rows attend to of their images, from the family's inputs of their last token."""
    states, is_seen = images["image_hidden_states"], images["image_attention_mask"][:, -1]
    rows, count, patches, width = states.shape
    # As the model lays them out: what it has projected just now is remembered.
    given = states.reshape(rows, count * patches, width)
    shown = tuple(layer.project(given) for layer in layers)
    columns = is_seen[..., None].expand(-1, -1, patches).reshape(rows, 1, 1, count * patches).bool()
    mask = torch.where(columns, 0.0, torch.finfo(states.dtype).min).to(states.dtype)
    return SeenImages(shown, mask, is_seen.any(-1, keepdim=True).to(states.dtype))


class SlotImages:
    """The keys and values of images that each slot attends to."""

    def __init__(self) -> None:
        self.version = 0
        """Changes with the addresses."""
        self.clear()

    def clear(self) -> None:
        self.version += 1
        self._held: SeenImages | None = None

    def view(self, slots: int) -> SeenImages | None:
        """The images of the first slots."""
        if self._held is None:
            return None
        layers = tuple((keys[:slots], values[:slots]) for keys, values in self._held.layers)
        return SeenImages(layers, self._held.mask[:slots], self._held.has_image[:slots])

    def join(self, slots: Sequence[int], new: SeenImages, count: int) -> None:
        """Give these images to slots, of which there are so many in all."""
        self._make_room(new, count)
        held = self._held
        assert held is not None
        places = list(slots)
        patches = new.mask.shape[-1]
        held.mask[places] = torch.finfo(new.mask.dtype).min
        held.mask[places, ..., :patches] = new.mask
        held.has_image[places] = new.has_image
        for pair, new_pair in zip(held.layers, new.layers, strict=True):
            for buffer, value in zip(pair, new_pair, strict=True):
                if patches < buffer.shape[2]:
                    buffer[places] = 0
                buffer[places, :, :patches] = value

    def keep(self, slots: Sequence[int]) -> None:
        """Keep only these slots, in this order."""
        if not slots:
            self.clear()
        elif self._held is not None:
            kept, count = self._held.select(slots), len(slots)
            self._held.mask[:count], self._held.has_image[:count] = kept.mask, kept.has_image
            for pair, own in zip(self._held.layers, kept.layers, strict=True):
                pair[0][:count], pair[1][:count] = own

    def _make_room(self, new: SeenImages, count: int) -> None:
        held = self._held
        room = (0, 0) if held is None else (len(held.mask), held.mask.shape[-1])
        size = (max(count, room[0]), max(new.mask.shape[-1], room[1]))
        if size == room:
            return
        layers = tuple(
            (
                keys.new_zeros((size[0], keys.shape[1], size[1], keys.shape[3])),
                values.new_zeros((size[0], values.shape[1], size[1], values.shape[3])),
            )
            for keys, values in new.layers
        )
        mask = new.mask.new_full((size[0], 1, 1, size[1]), torch.finfo(new.mask.dtype).min)
        made = SeenImages(layers, mask, new.has_image.new_zeros((size[0], 1)))
        self.version += 1
        if held is not None:
            made.mask[: room[0], ..., : room[1]] = held.mask
            made.has_image[: room[0]] = held.has_image
            for pair, former in zip(made.layers, held.layers, strict=True):
                pair[0][: room[0], :, : room[1]] = former[0]
                pair[1][: room[0], :, : room[1]] = former[1]
        self._held = made
