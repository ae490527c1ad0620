"""A key-value cache with room to grow: a decoding step writes its token and copies nothing else.

The cache of transformers is copied whole for every token, which costs as much as the model when a shared prefix is
long.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM_TOKENS = 64


class GrowableLayer(DynamicLayer):
    """Keys and values at the beginning of longer buffers. Never a sliding layer: masks implement windows."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    @classmethod
    def over(cls, keys: Tensor, values: Tensor) -> GrowableLayer:
        """A layer that begins with these, which it never writes to."""
        layer = cls()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        return layer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        buffers = self._own(start, stop, key_states, value_states)
        buffers[0][:, :, start:stop] = key_states
        buffers[1][:, :, start:stop] = value_states
        self.keys, self.values = buffers[0][:, :, :stop], buffers[1][:, :, :stop]
        return self.keys, self.values

    def _own(self, start: int, stop: int, *states: Tensor) -> tuple[Tensor, Tensor]:
        """Make own buffers with the present content and room up to `stop`, as beams replace the tensors."""
        held = (self.keys, self.values)
        if self._buffers is not None and self._buffers[0].shape[-2] >= stop:
            is_same = [
                one.data_ptr() == buffer.data_ptr() and one.shape[0] == buffer.shape[0]
                for one, buffer in zip(held, self._buffers, strict=True)
                if one is not None
            ]
            if all(is_same):
                return self._buffers
        room = stop + max(ROOM_TOKENS, stop // 4)
        keys, values = (
            torch.empty((*state.shape[:2], room, state.shape[-1]), dtype=state.dtype, device=state.device)
            for state in states
        )
        if start:
            assert self.keys is not None
            assert self.values is not None
            keys[:, :, :start], values[:, :, :start] = self.keys, self.values
        self._buffers = (keys, values)
        return self._buffers


def list_layers(cache: Cache) -> tuple[tuple[Tensor, Tensor], ...]:
    """The keys and values of each layer, without copying."""
    layers: list[Any] = list(cache.layers)
    return tuple((layer.keys, layer.values) for layer in layers)


def read_cache(cache: Cache) -> tuple[tuple[Tensor, Tensor], ...]:
    """Copies of the keys and values of each layer, without the spare room."""
    return tuple((keys.clone(), values.clone()) for keys, values in list_layers(cache))


def open_cache(layers: Iterable[tuple[Tensor, Tensor]] = (), rows: int = 1) -> Cache:
    """A cache of some number of rows that all begin with these keys and values of one row."""
    begun: list[Any] = [
        GrowableLayer.over(
            keys.expand(rows, *keys.shape[1:]),
            values.expand(rows, *values.shape[1:]),
        )
        for keys, values in layers
    ]
    return Cache(layers=begun) if begun else Cache(layer_class_to_replicate=GrowableLayer)
