"""Rows of tokens as tensors: a shared prefix first, then padding, then what each row has of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.devices import find_input_device
from ..models.families.family import Encoded
from ..models.families.placeholder_family import PlaceholderFamily


def lay_rows(rows: Sequence[Encoded], prefix: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask. The padding is never attended to and takes no position."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for place, row in enumerate(rows):
        own = len(row.ids) - prefix
        ids[place, :prefix] = torch.tensor(row.ids[:prefix], dtype=torch.long)
        ids[place, length - own :] = torch.tensor(row.ids[prefix:], dtype=torch.long)
        mask[place, :prefix] = 1
        mask[place, length - own :] = 1
    return ids, mask


def count_positions(mask: Tensor) -> Tensor:
    """The position of each token among those that are not padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def place_rows(family: PlaceholderFamily, rows: Sequence[Encoded], prefix: int, mask: Tensor) -> Tensor:
    """The position of each token of rows after layout: rows by tokens, or dimensions by rows by tokens."""
    placed = [family.place_tokens(row) for row in rows]
    if placed[0] is None:
        return count_positions(mask)
    length = mask.shape[1]
    positions = torch.zeros((3, *mask.shape), dtype=torch.long)
    for index, (row, places) in enumerate(zip(rows, placed, strict=True)):
        assert places is not None
        own = len(row.ids) - prefix
        positions[:, index, :prefix] = places[:, :prefix]
        positions[:, index, length - own :] = places[:, prefix:]
    return positions.to(mask.device)


def join_slots(former: Tensor, new: Tensor, slots: Sequence[int], count: int) -> Tensor:
    """The rows of so many slots: the first ones as before, and new ones in theirs."""
    # Where no row has an image there is one of a single patch, which nobody sees.
    sizes = [max(pair) for pair in zip(former.shape[1:], new.shape[1:], strict=True)]
    joined = new.new_zeros((count, *sizes))
    joined[: len(former)] = _pad_to(former, sizes)
    joined[list(slots)] = _pad_to(new, sizes)
    return joined


def _pad_to(value: Tensor, sizes: Sequence[int]) -> Tensor:
    missing = [size - own for size, own in zip(sizes, value.shape[1:], strict=True)]
    return pad(value, [part for size in reversed(missing) for part in (0, size)]) if any(missing) else value


def to_model(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors on the model's device, floating-point ones in its precision."""
    return {name: _to_model(model, value) for name, value in inputs.items()}


def _to_model(model: Any, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    device = find_input_device(model)
    return value.to(device, model.dtype) if value.is_floating_point() else value.to(device)
