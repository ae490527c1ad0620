"""Keys and values of rows that come and go: each in a slot, all ending at one shared position.

A row joins right-aligned, after hidden columns only, and leaves its slot to the next one. With one shared position a
decoding step is the same few operations for all rows. A step sees the beginning of longer buffers, a bucket of columns
at a time, so that shapes and addresses stay fixed.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from .kv_cache import ROOM_TOKENS, list_layers
from .slot_state import SlotState

Buffers = tuple[Tensor, Tensor]

COLUMN_BUCKET = 64
"""The columns that a step looks at are a multiple of these."""


@dataclass(frozen=True, slots=True)
class CachedRow:
    """One row of a cache: its first `prefix` columns are tokens, and so are its last ones, `length` in all.

    Later tokens are `skipped` positions further than their count.
    """

    row: int
    prefix: int
    length: int
    skipped: int = 0


class SlotCache:
    """The buffers of all layers, and what each slot holds."""

    def __init__(self, state: SlotState, *, rounds_slots: bool = False) -> None:
        self._state = state
        self._rounds_slots = rounds_slots
        self._held: list[Buffers] = []
        self._seen: list[Buffers] = []
        self._columns = 0
        self._lengths: list[int] = []
        """Tokens of each slot, 0 for a free one."""
        self._skipped: list[int] = []
        self._is_tight = False
        self.position = 0
        self.version = 0
        """Changes with the addresses."""

    @property
    def slots(self) -> int:
        return len(self._lengths)

    @property
    def buffers(self) -> list[Buffers]:
        """The keys and values of each layer that a step reads and writes."""
        return self._seen

    def count_tokens(self, slot: int) -> int:
        """The tokens that a slot holds."""
        return self._lengths[slot]

    def count_slots(self, rows: int) -> int:
        """The slots for so many rows: as many, or the next power of two where each number needs a graph."""
        return 1 << (rows - 1).bit_length() if self._rounds_slots and rows else rows

    def join(self, cache: Cache, rows: Sequence[CachedRow]) -> list[int]:
        """Copy rows from a cache. Returns their slots: free ones, or new ones if there are too few."""
        width = cache.get_seq_length()
        free = [slot for slot, length in enumerate(self._lengths) if not length][: len(rows)]
        slots = [*free, *range(self.slots, self.slots + len(rows) - len(free))]
        needed = max(max(row.length for row in rows), *self._lengths, 0)
        is_long = self.position - needed > max(ROOM_TOKENS, needed // 4)
        position = needed if is_long or needed > self.position else self.position
        count = self.count_slots(max(self.slots, slots[-1] + 1))
        self._move(list(range(self.slots)), count, position, list_layers(cache))
        for (keys, values), (new_keys, new_values) in zip(self._held, list_layers(cache), strict=True):
            for slot, row in zip(slots, rows, strict=True):
                for start, stop in _list_columns(row, width):
                    end = position if stop == width else position - row.length + stop
                    keys[slot, :, end - (stop - start) : end] = new_keys[row.row, :, start:stop]
                    values[slot, :, end - (stop - start) : end] = new_values[row.row, :, start:stop]
        for slot, row in zip(slots, rows, strict=True):
            self._lengths[slot], self._skipped[slot] = row.length, row.skipped
        self._draw()
        return slots

    def leave(self, slot: int, *, is_finite: bool = True) -> None:
        """Free a slot. What it held is hidden; values that are not finite are cleared, as hidden NaN is still NaN."""
        self._lengths[slot] = self._skipped[slot] = 0
        if not is_finite:
            for keys, values in self._held:
                keys[slot].zero_()
                values[slot].zero_()

    def shrink(self) -> list[int]:
        """Drop the free slots. Returns the former slots of those that stay, in their new order."""
        kept = [slot for slot, length in enumerate(self._lengths) if length]
        if not kept:
            self._held, self._seen, self._lengths, self._skipped = [], [], [], []
            self._columns = self.position = 0
            self.version += 1
            self._state.clear()
            return kept
        position = max(self._lengths)
        self._move(kept, self.count_slots(len(kept)), position, self._held)
        self._draw()
        return kept

    def trim(self) -> None:
        """From the next change on, hold no more than is needed: memory is short."""
        self._is_tight = True

    def read_row(self, slot: int, length: int) -> tuple[Buffers, ...]:
        """Copies of the keys and values of a slot's first tokens, of each layer."""
        start = self.position - self._lengths[slot]
        return tuple(
            (
                keys[slot : slot + 1, :, start : start + length].clone(),
                values[slot : slot + 1, :, start : start + length].clone(),
            )
            for keys, values in self._held
        )

    def read_rows(self, slots: Sequence[int], columns: int) -> list[Buffers]:
        """Copies of the last columns of slots, of each layer."""
        seen = slice(self.position - columns, self.position)
        return [(keys[list(slots), :, seen], values[list(slots), :, seen]) for keys, values in self._held]

    def find_position(self, slot: int) -> int:
        """The position of a slot's next token."""
        return self._lengths[slot] + self._skipped[slot]

    def make_room(self, counts: Mapping[int, int]) -> None:
        """Have columns for so many more tokens of slots, before the ones they hold."""
        needed = max(self._lengths[slot] + count for slot, count in counts.items())
        if needed > self.position:
            self._move(list(range(self.slots)), self.slots, needed, self._held)
            self._draw()

    def extend(self, cache: Cache, counts: Mapping[int, int], past: int) -> None:
        """Add so many tokens to slots from the rows of a cache, which has them after `past` columns of theirs. There
        must be room: what a slot held moves to the left, so that all still end at one position. Allocates nothing.
        """
        for pair, new_pair in zip(self._held, list_layers(cache), strict=True):
            for tensor, new in zip(pair, new_pair, strict=True):
                for row, (slot, count) in enumerate(counts.items()):
                    held = self._lengths[slot]
                    start = self.position - held - count
                    tensor[slot, :, start : self.position] = new[row, :, past - held : past + count]
        for slot, count in counts.items():
            self._lengths[slot] += count
        self._draw()

    def begin_step(self) -> None:
        """Make room for one token of each slot: it is written to the column `position`."""
        if self.position >= self._columns:
            self._move(list(range(self.slots)), self.slots, self.position, self._held)
            self._draw()

    def open_cache(self) -> Cache:
        """The buffers as a model wants them for this pass."""
        place = self._state.place
        return Cache(layers=[_SlotLayer(own, place, self.position) for own in self._seen])

    def end_step(self) -> None:
        """Count the tokens of a successful pass."""
        self._count(1)

    def rewind(self, count: int) -> None:
        """Take back the tokens of so many passes, and the changes of one that failed."""
        self._count(-count)
        self._draw()

    def _count(self, tokens: int) -> None:
        self.position += tokens
        self._lengths = [length + tokens if length else 0 for length in self._lengths]

    def _move(self, kept: Sequence[int], slots: int, position: int, like: Iterable[Buffers]) -> None:
        """Have so many slots, the first of them with the tokens of the kept ones, ending at a position."""
        held = max((self._lengths[slot] for slot in kept), default=0)
        is_all = list(kept) == list(range(self.slots))
        room = self._held[0][0].shape if self._held else (0, 0, 0)
        if slots > room[0] or _round_up(position + 1) >= room[2] or self._is_tight:
            self._held = self._lay_out(kept, slots, position, held, like)
            self.version += 1
        elif held and not (is_all and position == self.position):
            self._shift(kept, position, held)
        self._is_tight = False
        free = [0] * (slots - len(kept))
        self._lengths = [self._lengths[slot] for slot in kept] + free
        self._skipped = [self._skipped[slot] for slot in kept] + free
        self.position = position
        self._columns = _round_up(position + 1)
        self._seen = [
            (keys[:slots, :, : self._columns], values[:slots, :, : self._columns]) for keys, values in self._held
        ]

    def _lay_out(
        self, kept: Sequence[int], slots: int, position: int, held: int, like: Iterable[Buffers]
    ) -> list[Buffers]:
        """Allocate new buffers. The old ones stay until all of the new ones exist."""
        # More than a step sees: compiled, it would be another program where it sees all.
        columns = _round_up(position + max(ROOM_TOKENS, position // 4)) + COLUMN_BUCKET
        made = []
        for layer, pair in enumerate(like):
            new = []
            for part, tensor in enumerate(pair):
                # Zeros, as what nobody sees is still multiplied by nothing, and may not be NaN.
                buffer = tensor.new_zeros((slots, tensor.shape[1], columns, tensor.shape[3]))
                if held:
                    former = self._held[layer][part][:, :, self.position - held : self.position]
                    buffer[: len(kept), :, position - held : position] = former[list(kept)]
                new.append(buffer)
            made.append((new[0], new[1]))
        return made

    def _shift(self, kept: Sequence[int], position: int, held: int) -> None:
        """Move within the buffers. All memory is allocated before the first write."""
        order = torch.tensor(kept, device=self._held[0][0].device)
        copies = {
            tensor.shape[1::2]: tensor.new_empty((len(kept), tensor.shape[1], held, tensor.shape[3]))
            for pair in self._held
            for tensor in pair
        }
        for pair in self._held:
            for tensor in pair:
                copy = copies[tensor.shape[1::2]]
                torch.index_select(tensor[:, :, self.position - held : self.position], 0, order, out=copy)
                tensor[: len(kept), :, position - held : position] = copy

    def _draw(self) -> None:
        self._state.draw(self._lengths, self._skipped, self.position, self._columns)


class _SlotLayer(DynamicLayer):
    """One layer during one pass: writes its token at the position and shows all columns of the bucket."""

    def __init__(self, buffers: Buffers, place: Tensor, position: int) -> None:
        super().__init__()
        self.keys, self.values = buffers
        self.is_initialized = True
        self._place = place
        self._position = position

    def get_seq_length(self) -> int:
        return self._position

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        self.keys.index_copy_(2, self._place, key_states)
        self.values.index_copy_(2, self._place, value_states)
        return self.keys, self.values


def _round_up(columns: int) -> int:
    return -(-columns // COLUMN_BUCKET) * COLUMN_BUCKET


def _list_columns(row: CachedRow, width: int) -> list[tuple[int, int]]:
    """The columns of a row's tokens: before the padding and after it, or all in one."""
    own = row.length - row.prefix
    if row.length == width:
        return [(0, width)]
    parts = [(0, row.prefix), (width - own, width)]
    return [(start, stop) for start, stop in parts if stop > start]
