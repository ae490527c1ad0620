"""One token for each row straight from a decoder's weights: few, large operators instead of the model's own forward.

Queries, keys and values are one product, gate and up projections another; rotary positions come from a table. A model
that is not laid out like LLaMA, is spread over devices, or is quantized without a fast product here is run by its own
forward.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.families.family import Family
from .attend import choose_attend
from .compiled_layer import CompiledLayer
from .cross_attention import CrossLayer, SeenImages, see_images
from .decoder_layer import Layer, LayerShape, Place, RunLayer, run_layer
from .kv_cache import ROOM_TOKENS
from .masks import list_windows
from .matrices import Matrix, can_join, choose_kind, is_plain, normalize
from .slot_state import SlotState

PLAIN_TEXTS = ("llama", "mistral")
"""What may be inside of another model: others multiply or add where these do not."""
PLAIN_ROTATIONS = ("default", "linear", "llama3")
"""How positions may be rotated for a table to tell all of it."""

Buffers = tuple[Tensor, Tensor]


class DecoderStep:
    """The text model of one checkpoint, with joined matrices: the model's own become views of them."""

    def __init__(self, model: Any, text: Any, config: Any, *, compiles: bool = False) -> None:
        self._model = model
        self._text = text
        first = text.layers[0]
        attention = first.self_attn
        head = int(getattr(config, "head_dim", None) or attention.head_dim)
        shape = LayerShape(
            hidden=attention.q_proj.in_features,
            gate_up=2 * first.mlp.gate_proj.out_features,
            queries=attention.q_proj.out_features // head,
            keys=attention.k_proj.out_features // head,
            head=head,
            scaling=float(attention.scaling),
            epsilon=float(first.input_layernorm.variance_epsilon),
        )
        parts = [_list_linears(layer) for layer in text.layers]
        crossed: list[Any] = list(getattr(text, "gated_cross_attn_layers", ()))
        last = [model.lm_head] if is_plain([model.lm_head]) else []
        every = [*parts, *map(CrossLayer.list_linears, crossed)]
        make = choose_kind([*(part for own in every for part in own), *([last] if last else [])])
        self._layers = [
            Layer(layer.input_layernorm.weight, layer.post_attention_layernorm.weight, *map(make, own))
            for layer, own in zip(text.layers, parts, strict=True)
        ]
        self._head: Matrix = make(last) if last else model.lm_head
        self._cross_layers = [CrossLayer(layer, make) for layer in crossed]
        self._cross_interval = int(getattr(text, "cross_layer_interval", 1))
        self._rotary = getattr(text, "rotary_emb", None) or attention.rotary_emb
        self._cos = self._sin = torch.empty(0)
        like = torch.empty(0, dtype=model.dtype, device=first.input_layernorm.weight.device)
        attend = choose_attend(like, is_shared=shape.is_shared, compiles=compiles)
        run: RunLayer = partial(run_layer, shape=shape, attend=attend)
        self._run_layer = CompiledLayer(self._layers, shape, attend, like) if compiles else run

    @classmethod
    def open(cls, model: Any, family: Family, *, compiles: bool = False) -> DecoderStep | None:
        """The step of a model; None if only its own forward can run it. Raises ModelError if it cannot be compiled."""
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
        return cls(model, text, config, compiles=compiles)

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
        # Its strides follow from its shape, even of one row: others would be another program.
        mask = state.mask.contiguous().view(-1).view(state.mask.shape)
        place = Place(*self.rotate(state.positions), state.place, mask)
        hidden: Tensor = self._text.embed_tokens(state.tokens)[:, 0]
        for index, (layer, (keys, values)) in enumerate(zip(self._layers, buffers, strict=True)):
            if seen is not None and index % self._cross_interval == 0:
                count = index // self._cross_interval
                block = self._cross_layers[count]
                hidden = block.run(hidden, seen.layers[count], seen.mask, seen.has_image)
            hidden = self._run_layer(hidden, layer, place, keys, values)
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
