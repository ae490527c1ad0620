"""Attention masks of batches that one mask of ones and zeros cannot express.

Layers may see all tokens or a window of them, and the tokens of one image may see one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..models.families.family import Encoded, Family
from ..models.families.placeholder_family import PlaceholderFamily
from .inputs import count_positions

FULL, SLIDING = "full_attention", "sliding_attention"
Mask = Tensor | dict[str, Tensor]


def list_windows(family: Family) -> Mapping[str, int | None]:
    """The window of each kind of layer; if all are alike, the only kind has an empty name."""
    window: int | None = getattr(family.text_config, "sliding_window", None)
    kinds = set(getattr(family.text_config, "layer_types", None) or ())
    return {FULL: None, SLIDING: window} if {FULL, SLIDING} <= kinds else {"": window}


def mask_prompts(
    model: Any, family: PlaceholderFamily, prompts: Sequence[Encoded], prefix: int, mask: Tensor, queries: int
) -> Mask:
    """The mask of the last `queries` columns of prompts that are laid out after a prefix.

    It is the mask of ones and zeros itself if the model derives the rest correctly.
    """
    if not family.sees_ahead:
        return mask
    visible = show_prompts(family, prompts, prefix, mask, queries)
    return finish(family, visible, count_positions(mask), model.dtype)


def show_prompts(
    family: PlaceholderFamily, prompts: Sequence[Encoded], prefix: int, mask: Tensor, queries: int
) -> Tensor:
    """Whether each of the last `queries` columns sees each column, ignoring windows."""
    order = torch.arange(mask.shape[1], device=mask.device)
    visible = (order <= order[-queries:, None]) & mask[:, None].bool()
    if family.sees_ahead:
        blocks = torch.stack([_number_images(family, one, prefix, mask.shape[1]) for one in prompts])
        blocks = blocks.to(mask.device)
        own = blocks[:, -queries:, None]
        visible |= (own == blocks[:, None]) & (own >= 0)
    return visible


def finish(family: Family, visible: Tensor, order: Tensor, dtype: torch.dtype) -> Mask:
    """The additive mask for each kind of layer. `order` counts the tokens of each row."""
    masks = {kind: _to_additive(_limit(visible, order, window), dtype) for kind, window in list_windows(family).items()}
    return masks.get("", masks)


def _limit(visible: Tensor, order: Tensor, window: int | None) -> Tensor:
    if window is None:
        return visible
    return visible & (order[:, -visible.shape[1] :, None] - order[:, None] < window)


def _to_additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.where(visible, hidden.new_zeros(()), hidden)[:, None]


def _number_images(family: PlaceholderFamily, encoded: Encoded, prefix: int, width: int) -> Tensor:
    """The number of the image, or piece of one, in each column of a row; -1 elsewhere."""
    numbers: list[int] = []
    for count, (is_image, run) in enumerate(groupby(index == family.image_id for index in encoded.ids)):
        numbers += [count if is_image else -1] * len(list(run))
    padding = [-1] * (width - len(numbers))
    return torch.tensor([*numbers[:prefix], *padding, *numbers[prefix:]])
