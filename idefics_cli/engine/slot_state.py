"""What a decoding step reads and changes besides keys and values: tokens, positions and the mask, one row a slot.

All of it is on the device at fixed addresses, so that a step reads nothing back to the host and can be recorded. The
host keeps count of the same values, and writes them again when rows come, go or move.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class SlotState:
    """The state of all slots. A token's keys go to the column `place`; its position counts its row's tokens."""

    def __init__(
        self, dtype: torch.dtype, device: torch.device, windows: Mapping[str, int | None] | None = None
    ) -> None:
        self._dtype = dtype
        self._device = device
        self._windows = windows or {"": None}
        """How far each kind of layers looks back."""
        self._hidden = torch.finfo(dtype).min
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.version = 0
        """Changes with the addresses."""
        self.clear()

    def clear(self) -> None:
        """Free all tensors."""
        self.version += 1
        empty = torch.empty((len(self._windows), 0, 1, 1, 0), dtype=self._dtype, device=self._device)
        self._masks, self._counts = empty, torch.empty((0, 3), dtype=torch.long, device=self._device)
        self.mask, self.tokens, self.positions = empty[0], self._counts[:, :1], self._counts[:, 1:2]
        self.masks: dict[str, Tensor] = {}
        """What is added to attention, by the kind of layers; `mask` is the first."""

    def draw(self, lengths: Sequence[int], skipped: Sequence[int], position: int, columns: int) -> None:
        """Write the mask and positions of slots with so many tokens, 0 for a free one, which all end at a column."""
        slots = len(lengths)
        kinds, rows, _, _, most = self._masks.shape
        if slots > rows or columns > most:
            shape = (kinds, max(slots, rows), 1, 1, max(columns, most))
            self._masks = torch.empty(shape, dtype=self._dtype, device=self._device)
            former, self._counts = self._counts, torch.zeros((shape[1], 3), device=self._device).long()
            self._counts[: len(former)] = former
            self.version += 1
        self.masks = {kind: mask[:slots, ..., :columns] for kind, mask in zip(self._windows, self._masks, strict=True)}
        self.mask = next(iter(self.masks.values()))
        self.tokens, self.positions, self._steps = (self._counts[:slots, one : one + 1] for one in range(3))
        ends = torch.tensor(lengths)[:, None]
        places = torch.arange(columns)
        for kind, window in self._windows.items():
            starts = position - ends
            if window is not None:
                starts = starts.clamp(min=position - window)
            visible = (places >= starts) & (places < position)
            self.masks[kind].copy_(torch.where(visible, 0.0, self._hidden)[:, None, None])
        self.positions.copy_(ends + torch.tensor(skipped)[:, None])
        self._steps.copy_((ends > 0).long())
        self.place.fill_(position)

    def write(self, tokens: Mapping[int, int]) -> None:
        """Set the token of each slot that runs next."""
        some = [tokens.get(slot, 0) for slot in range(len(self.tokens))]
        self.tokens.copy_(torch.tensor(some)[:, None])

    def begin(self) -> None:
        """Show the column that is about to be written, and hide the one that leaves a window."""
        for kind, window in self._windows.items():
            mask = self.masks[kind]
            mask.index_fill_(-1, self.place, 0)
            if window is not None:
                former = (self.place - window).clamp(min=0)
                seen = mask.index_select(-1, former)
                hidden = torch.where(self.place >= window, self._hidden, seen)
                mask.index_copy_(-1, former, hidden.to(self._dtype))

    def end(self, tokens: Tensor) -> None:
        """Continue with the chosen tokens."""
        self.tokens.copy_(tokens[:, None])
        self.positions.add_(self._steps)
        self.place.add_(1)
