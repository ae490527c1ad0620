"""Keys and values of rows that come and go: each in a slot of its own, all ending at one running position.

A row joins right-aligned, with nothing but hidden columns before it, and leaves its slot to the next one. One shared
position makes a step of decoding the same few operations for all rows, whenever each of them began.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from .kv_cache import ROOM_TOKENS, list_layers

Buffers = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class CachedRow:
    """One row of a cache: its first `prefix` columns are tokens, and so are its last ones, `length` in all.

    What follows stands `skipped` further than the tokens count.
    """

    row: int
    prefix: int
    length: int
    skipped: int = 0


class SlotCache:
    """The buffers of all layers, what of them each slot has, and what it may see of them."""

    def __init__(self, dtype: torch.dtype, device: torch.device, window: int | None = None) -> None:
        self._dtype = dtype
        self._device = device
        self._window = window
        self._buffers: list[Buffers] = []
        self._capacity = 0
        self._lengths: list[int] = []
        """Tokens of each slot, 0 for a free one."""
        self._skipped: list[int] = []
        self._mask = torch.empty(0)
        self.position = 0

    @property
    def slots(self) -> int:
        return len(self._lengths)

    def count_tokens(self, slot: int) -> int:
        """The tokens that a slot holds."""
        return self._lengths[slot]

    def join(self, cache: Cache, rows: Sequence[CachedRow]) -> list[int]:
        """Take rows over from a cache. Returns their slots: free ones, or new ones where there are too few."""
        width = cache.get_seq_length()
        free = [slot for slot, length in enumerate(self._lengths) if not length][: len(rows)]
        slots = [*free, *range(self.slots, self.slots + len(rows) - len(free))]
        needed = max(max(row.length for row in rows), *self._lengths, 0)
        is_long = self.position - needed > max(ROOM_TOKENS, needed // 4)
        position = needed if is_long or needed > self.position else self.position
        buffers = self._buffers
        if position != self.position or position >= self._capacity or len(free) < len(rows):
            count = max(self.slots, slots[-1] + 1)
            like = [(keys, values) for keys, values in list_layers(cache)]
            buffers = self._lay_out(list(range(self.slots)), count, position, like)
        for (keys, values), (new_keys, new_values) in zip(buffers, list_layers(cache), strict=True):
            for slot, row in zip(slots, rows, strict=True):
                for start, stop in _list_columns(row, width):
                    end = position if stop == width else position - row.length + stop
                    keys[slot, :, end - (stop - start) : end] = new_keys[row.row, :, start:stop]
                    values[slot, :, end - (stop - start) : end] = new_values[row.row, :, start:stop]
        self._take_over(buffers, position)
        more = [0] * (len(buffers[0][0]) - self.slots)
        self._lengths, self._skipped = self._lengths + more, self._skipped + more
        for slot, row in zip(slots, rows, strict=True):
            self._lengths[slot], self._skipped[slot] = row.length, row.skipped
        self._draw_mask()
        return slots

    def leave(self, slot: int) -> None:
        """Free a slot; what it held is seen by nobody."""
        self._lengths[slot] = self._skipped[slot] = 0

    def shrink(self) -> list[int]:
        """Let go of the free slots. Returns the former slots of those that stay, in their new order."""
        kept = [slot for slot, length in enumerate(self._lengths) if length]
        lengths = [self._lengths[slot] for slot in kept]
        if not kept:
            self._buffers, self._capacity, self.position = [], 0, 0
        else:
            position = max(lengths)
            self._take_over(self._lay_out(kept, len(kept), position, self._buffers), position)
        self._lengths, self._skipped = lengths, [self._skipped[slot] for slot in kept]
        if kept:
            self._draw_mask()
        return kept

    def read_row(self, slot: int) -> tuple[Buffers, ...]:
        """Copies of the keys and values of a slot's tokens, of each layer."""
        start = self.position - self._lengths[slot]
        return tuple(
            (
                keys[slot : slot + 1, :, start : self.position].clone(),
                values[slot : slot + 1, :, start : self.position].clone(),
            )
            for keys, values in self._buffers
        )

    @property
    def buffers(self) -> list[Buffers]:
        """Keys and values of each layer, with room behind the position."""
        return self._buffers

    def begin_step(self) -> tuple[Tensor, Tensor]:
        """What a pass of one token for each slot sees: mask and position ids. It writes to the column `position`."""
        if self.position >= self._capacity:
            kept = list(range(self.slots))
            self._take_over(self._lay_out(kept, self.slots, self.position, self._buffers), self.position)
            self._draw_mask()
        self._mask[..., self.position] = 0
        if self._window is not None and self.position >= self._window:
            self._mask[..., self.position - self._window] = torch.finfo(self._dtype).min
        places = [length + skipped for length, skipped in zip(self._lengths, self._skipped, strict=True)]
        positions = torch.tensor(places, device=self._device)[:, None]
        return self._mask[..., : self.position + 1], positions

    def open_cache(self) -> Cache:
        """The buffers as a model wants them for this pass."""
        return Cache(layers=[_SlotLayer(own, self.position) for own in self._buffers])

    def end_step(self) -> None:
        """Count the tokens of a pass that went well."""
        self.position += 1
        self._lengths = [length + (length > 0) for length in self._lengths]

    def _lay_out(
        self, kept: Sequence[int], slots: int, position: int, like: Iterable[Buffers]
    ) -> list[Buffers]:
        """New buffers with the tokens of kept slots, in this order, ending at a position."""
        capacity = position + max(ROOM_TOKENS, position // 4)
        held = max((self._lengths[slot] for slot in kept), default=0)
        is_all = list(kept) == list(range(self.slots))
        made = []
        for layer, pair in enumerate(like):
            new = []
            for part, tensor in enumerate(pair):
                # Zeros, as what nobody sees is still multiplied by nothing, and may not be NaN.
                buffer = tensor.new_zeros((slots, tensor.shape[1], capacity, tensor.shape[3]))
                if held:
                    former = self._buffers[layer][part][:, :, self.position - held : self.position]
                    buffer[: len(kept), :, position - held : position] = former if is_all else former[kept]
                new.append(buffer)
            made.append((new[0], new[1]))
        return made

    def _take_over(self, buffers: list[Buffers], position: int) -> None:
        self._buffers, self.position = buffers, position
        self._capacity = buffers[0][0].shape[2]

    def _draw_mask(self) -> None:
        """What each slot sees: its own tokens, or those of its window."""
        columns = torch.arange(self._capacity)
        starts = torch.tensor([self.position - length for length in self._lengths])[:, None]
        if self._window is not None:
            starts = starts.clamp(min=self.position - self._window)
        visible = (columns >= starts) & (columns < self.position)
        mask = torch.where(visible, 0.0, torch.finfo(self._dtype).min).to(self._dtype)
        self._mask = mask[:, None, None].to(self._device)


class _SlotLayer(DynamicLayer):
    """One layer during one pass: writes its tokens at the position and shows all up to them."""

    def __init__(self, buffers: Buffers, position: int) -> None:
        super().__init__()
        self.keys, self.values = buffers
        self.is_initialized = True
        self._position = position

    def get_seq_length(self) -> int:
        return self._position

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        stop = self._position + key_states.shape[-2]
        self.keys[:, :, self._position : stop] = key_states
        self.values[:, :, self._position : stop] = value_states
        return self.keys[:, :, :stop], self.values[:, :, :stop]


def _list_columns(row: CachedRow, width: int) -> list[tuple[int, int]]:
    """The columns of a row's tokens: before the padding and after it, or all in one."""
    own = row.length - row.prefix
    if row.length == width:
        return [(0, width)]
    parts = [(0, row.prefix), (width - own, width)]
    return [(start, stop) for start, stop in parts if stop > start]
