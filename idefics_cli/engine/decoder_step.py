"""One token for each row straight from a decoder's weights: few and large operators instead of the model's own forward.

Queries, keys and values are one product, gate and up another; positions are rotated from a table. A CPU with memory to
spare keeps the matrices a second time, laid out for its own kernels. What is not laid out like LLaMA, or is quantized
or spread over devices, is left to the model.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from ..models.devices import count_free_bytes
from ..models.families.family import Family

PLAIN_ROTATIONS = ("default", "linear", "llama3")
"""How positions may be rotated for a table to tell all of it."""

PACKED_SHARE = 4
"""Matrices are laid out anew where they take no more than one part in so many of the free memory."""

ROWS_HINT = 8
"""The rows that the layout is best for; it serves any number."""

Buffers = tuple[Tensor, Tensor]
Matrix = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    first_norm: Any
    second_norm: Any
    inward: Matrix
    outward: Matrix
    gate_up: Matrix
    down: Matrix


class DecoderStep:
    """The text model of one checkpoint, its matrices joined in place: the model's own are views of them."""

    def __init__(self, model: Any, text: Any, config: Any) -> None:
        self._model = model
        self._text = text
        attention = text.layers[0].self_attn
        self._head_size = int(getattr(config, "head_dim", None) or attention.head_dim)
        self._queries = attention.q_proj.out_features // self._head_size
        self._keys = attention.k_proj.out_features // self._head_size
        self._scaling = float(attention.scaling)
        joined = [_join(layer) for layer in text.layers]
        head = model.lm_head.weight if type(model.lm_head) is torch.nn.Linear else None
        held = sum(one.nbytes for four in joined for one in four) + (0 if head is None else head.nbytes)
        pack = _pack if _can_pack(head, joined[0][0], held) else _leave
        self._layers = [
            _Layer(layer.input_layernorm, layer.post_attention_layernorm, *map(pack, four))
            for layer, four in zip(text.layers, joined, strict=True)
        ]
        self._head: Matrix = model.lm_head if head is None or model.lm_head.bias is not None else pack(head)
        self._cross_layers: Any = getattr(text, "gated_cross_attn_layers", None)
        self._cross_interval = int(getattr(text, "cross_layer_interval", 1))
        self._rotary = getattr(text, "rotary_emb", None) or attention.rotary_emb
        self._cos = self._sin = torch.empty(0)

    @classmethod
    def open(cls, model: Any, family: Family) -> DecoderStep | None:
        """None where the model has to be run as it is."""
        text = getattr(model.model, "text_model", model.model)
        layers = getattr(text, "layers", None)
        if not family.has_slots or layers is None or not all(_is_plain(layer) for layer in layers):
            return None
        if any(hasattr(module, "_hf_hook") for module in model.modules()):
            return None
        config = family.text_config
        rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if rotation not in PLAIN_ROTATIONS or model.config._attn_implementation not in ("sdpa", "eager"):
            return None
        return cls(model, text, config)

    def rotate(self, positions: Tensor) -> Buffers:
        """Cosines and sines of positions, for all layers."""
        if len(self._cos) == 0:
            count = int(self._model.config.get_text_config().max_position_embeddings)
            some = torch.empty(1, 1, device=positions.device, dtype=self._model.dtype)
            every = torch.arange(count, device=positions.device)[None]
            cos, sin = self._rotary(some, every)
            self._cos, self._sin = cos[0], sin[0]
        place = positions[:, 0]
        return self._cos[place][:, None, None], self._sin[place][:, None, None]

    def run(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        buffers: Sequence[Buffers],
        place: Tensor,
        images: Mapping[str, Tensor],
    ) -> Tensor:
        """The logits after one token for each row. `place` is the column its keys and values go to; the mask covers
        all columns of the buffers that are looked at."""
        rows, size = len(tokens), self._head_size
        cos, sin = self.rotate(positions)
        hidden: Tensor = self._text.embed_tokens(tokens)[:, 0]
        seen = self._see(images, hidden)
        columns = mask.shape[-1]
        for index, (layer, (keys, values)) in enumerate(zip(self._layers, buffers, strict=True)):
            if seen is not None and index % self._cross_interval == 0:
                block = self._cross_layers[index // self._cross_interval]
                hidden = block(hidden[:, None], None, **seen)[:, 0]
            joined = layer.inward(_normalize(hidden, layer.first_norm)).view(rows, -1, 1, size)
            turned = joined[:, : self._queries + self._keys]
            turned = turned * cos + torch.cat((-turned[..., size // 2 :], turned[..., : size // 2]), -1) * sin
            keys.index_copy_(2, place, turned[:, self._queries :])
            values.index_copy_(2, place, joined[:, self._queries + self._keys :])
            found = scaled_dot_product_attention(
                turned[:, : self._queries].reshape(rows, self._keys, -1, size),
                keys[:, :, :columns],
                values[:, :, :columns],
                attn_mask=mask,
                scale=self._scaling,
            )
            hidden = hidden + layer.outward(found.reshape(rows, -1))
            gate, up = layer.gate_up(_normalize(hidden, layer.second_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(silu(gate) * up)
        return self._head(_normalize(hidden, self._text.norm))

    def _see(self, images: Mapping[str, Tensor], hidden: Tensor) -> dict[str, Tensor] | None:
        """What the gated cross-attention of IDEFICS wants of the images, as its model makes it of them."""
        if self._cross_layers is None:
            return None
        states, mask = images["image_hidden_states"], images["image_attention_mask"]
        rows, count, patches, width = states.shape
        is_seen = mask[..., None].expand(-1, -1, -1, patches).reshape(rows, 1, 1, count * patches).bool()
        hidden_value = torch.finfo(states.dtype).min
        return {
            "image_hidden_states": states.view(rows, count * patches, width),
            "image_attention_mask": torch.where(is_seen, 0.0, hidden_value).to(states.dtype),
            "cross_attention_gate": mask.any(-1).to(hidden.dtype),
        }


def _normalize(hidden: Tensor, norm: Any) -> Tensor:
    return rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)


def _is_plain(layer: Any) -> bool:
    """Whether a layer has the parts of LLaMA's and no others, none of them quantized."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    parts = [getattr(attention, name, None) for name in names]
    parts += [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    is_linear = all(type(part) is torch.nn.Linear and part.bias is None for part in parts)
    norms = [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]
    is_normal = all(hasattr(norm, "weight") and hasattr(norm, "variance_epsilon") for norm in norms)
    return is_linear and is_normal and not getattr(attention, "qk_layer_norms", False)


def _join(layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        _stack([attention.q_proj, attention.k_proj, attention.v_proj]),
        attention.o_proj.weight.detach(),
        _stack([mlp.gate_proj, mlp.up_proj]),
        mlp.down_proj.weight.detach(),
    )


def _can_pack(head: Tensor | None, some: Tensor, held_bytes: int) -> bool:
    """Whether the CPU has a layout of its own for matrices of this kind, and the memory for it."""
    if some.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if some.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    is_known = some.dtype in (torch.float32, torch.bfloat16)
    return is_known and held_bytes * PACKED_SHARE <= count_free_bytes(some.device)


def _leave(weight: Tensor) -> Matrix:
    return partial(linear, weight=weight)


def _pack(weight: Tensor) -> Matrix:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)

    def multiply(hidden: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, packed, None, "none", [], "")
        return product

    return multiply


def _stack(parts: Sequence[torch.nn.Linear]) -> Tensor:
    """The matrices as one, of which each part keeps its own as a view: nothing is held twice."""
    total = sum(part.out_features for part in parts)
    first = parts[0].weight.detach()
    size = first[0].nbytes
    starts = [part.weight.data_ptr() - first.data_ptr() for part in parts]
    expected = [size * sum(part.out_features for part in parts[:place]) for place in range(len(parts))]
    if starts == expected and first.untyped_storage().nbytes() >= size * total:
        return first.as_strided((total, first.shape[1]), (first.shape[1], 1))
    joined = torch.cat([part.weight.detach() for part in parts])
    start = 0
    for part in parts:
        count = part.out_features
        part.weight = torch.nn.Parameter(joined[start : start + count], requires_grad=False)
        start += count
    return joined
