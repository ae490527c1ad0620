"""One token for each row straight from a decoder's weights: few, large operators instead of the model's own forward.

Queries, keys and values are one product, gate and up projections another; rotary positions come from a table. A model
that is not laid out like LLaMA, is spread over devices, or is quantized without a fast product here is run by its own
forward.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from ..models.families.family import Family
from .cross_attention import CrossLayer, SeenImages, see_images
from .kv_cache import ROOM_TOKENS
from .masks import list_windows
from .matrices import Matrix, can_join, choose_kind, is_plain, normalize
from .slot_state import SlotState

PLAIN_TEXTS = ("llama", "mistral")
"""What may be inside of another model: others multiply or add where these do not."""
PLAIN_ROTATIONS = ("default", "linear", "llama3")
"""How positions may be rotated for a table to tell all of it."""

Buffers = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    first_norm: Any
    second_norm: Any
    inward: Matrix
    outward: Matrix
    gate_up: Matrix
    down: Matrix


class DecoderStep:
    """The text model of one checkpoint, with joined matrices: the model's own become views of them."""

    def __init__(self, model: Any, text: Any, config: Any) -> None:
        self._model = model
        self._text = text
        attention = text.layers[0].self_attn
        self._head_size = int(getattr(config, "head_dim", None) or attention.head_dim)
        self._queries = attention.q_proj.out_features // self._head_size
        self._keys = attention.k_proj.out_features // self._head_size
        self._scaling = float(attention.scaling)
        parts = [_list_linears(layer) for layer in text.layers]
        crossed: list[Any] = list(getattr(text, "gated_cross_attn_layers", ()))
        head = [model.lm_head] if is_plain([model.lm_head]) else []
        every = [*parts, *map(CrossLayer.list_linears, crossed)]
        make = choose_kind([*(part for own in every for part in own), *([head] if head else [])])
        self._layers = [
            _Layer(layer.input_layernorm, layer.post_attention_layernorm, *map(make, own))
            for layer, own in zip(text.layers, parts, strict=True)
        ]
        self._head: Matrix = make(head) if head else model.lm_head
        self._cross_layers = [CrossLayer(layer, make) for layer in crossed]
        self._cross_interval = int(getattr(text, "cross_layer_interval", 1))
        self._rotary = getattr(text, "rotary_emb", None) or attention.rotary_emb
        self._cos = self._sin = torch.empty(0)

    @classmethod
    def open(cls, model: Any, family: Family) -> DecoderStep | None:
        """The step of a model; None if only its own forward can run it."""
        text = getattr(model.model, "text_model", model.model)
        inner = getattr(text, "language_model", None)
        if inner is not None and inner.config.model_type in PLAIN_TEXTS:
            text = inner
        layers = getattr(text, "layers", None)
        if (
            not family.has_slots
            or len(list_windows(family)) > 1
            or layers is None
            or not all(_is_plain(layer) for layer in layers)
        ):
            return None
        if any(hasattr(module, "_hf_hook") for module in model.modules()):
            return None
        crossed = [CrossLayer.list_linears(one) for one in getattr(text, "gated_cross_attn_layers", ())]
        if not all(can_join(part) for parts in crossed for part in parts):
            return None
        config = family.text_config
        rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if rotation not in PLAIN_ROTATIONS or model.config._attn_implementation not in ("sdpa", "eager"):
            return None
        if getattr(config, "hidden_act", "silu") != "silu":
            return None
        return cls(model, text, config)

    def see(self, images: Mapping[str, Tensor]) -> SeenImages | None:
        """What rows attend to by cross-attention; None if images are among the tokens."""
        return see_images(self._cross_layers, images) if self._cross_layers else None

    def rotate(self, positions: Tensor) -> Buffers:
        """Cosines and sines of positions, for all layers."""
        if len(self._cos) == 0:
            # A row that has ended may be run on for some steps, until that is read.
            count = int(self._model.config.get_text_config().max_position_embeddings) + ROOM_TOKENS
            some = torch.empty(1, 1, device=positions.device, dtype=self._model.dtype)
            every = torch.arange(count, device=positions.device)[None]
            cos, sin = self._rotary(some, every)
            self._cos, self._sin = cos[0], sin[0]
        place = positions[:, 0]
        return self._cos[place][:, None, None], self._sin[place][:, None, None]

    def run(self, state: SlotState, buffers: Sequence[Buffers], seen: SeenImages | None) -> Tensor:
        """The logits after one token for each slot."""
        rows, size = len(state.tokens), self._head_size
        cos, sin = self.rotate(state.positions)
        hidden: Tensor = self._text.embed_tokens(state.tokens)[:, 0]
        for index, (layer, (keys, values)) in enumerate(zip(self._layers, buffers, strict=True)):
            if seen is not None and index % self._cross_interval == 0:
                place = index // self._cross_interval
                block = self._cross_layers[place]
                hidden = block.run(hidden, seen.layers[place], seen.mask, seen.has_image)
            joined = layer.inward(normalize(hidden, layer.first_norm)).view(rows, -1, 1, size)
            turned = joined[:, : self._queries + self._keys]
            turned = turned * cos + torch.cat((-turned[..., size // 2 :], turned[..., : size // 2]), -1) * sin
            keys.index_copy_(2, state.place, turned[:, self._queries :])
            values.index_copy_(2, state.place, joined[:, self._queries + self._keys :])
            found = scaled_dot_product_attention(
                turned[:, : self._queries].reshape(rows, self._keys, -1, size),
                keys,
                values,
                attn_mask=state.mask,
                scale=self._scaling,
            )
            hidden = hidden + layer.outward(found.reshape(rows, -1))
            gate, up = layer.gate_up(normalize(hidden, layer.second_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(silu(gate) * up)
        return self._head(normalize(hidden, self._text.norm))


def _is_plain(layer: Any) -> bool:
    """Whether a layer has the parts of LLaMA's and no others, and each has a product here."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    are_there = all(hasattr(attention, name) for name in names)
    are_there = are_there and all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj"))
    if not are_there or not all(can_join(part) for part in _list_linears(layer)):
        return False
    norms = [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]
    is_normal = all(hasattr(norm, "weight") and hasattr(norm, "variance_epsilon") for norm in norms)
    is_normed = getattr(attention, "qk_layer_norms", False) or hasattr(attention, "q_norm")
    return is_normal and not is_normed


def _list_linears(layer: Any) -> list[list[Any]]:
    """The four products of a layer."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [mlp.gate_proj, mlp.up_proj],
        [mlp.down_proj],
    ]
