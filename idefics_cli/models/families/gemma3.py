"""Gemma 3: the tokens of an image see one another, and most layers have sliding attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from .family import Encoded
from .templated import TemplatedFamily

if TYPE_CHECKING:
    from torch import Tensor


class Gemma3Family(TemplatedFamily):
    sees_ahead = True
    flash_attention = False

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        inputs = super().collate(rows)
        return inputs | {"token_type_ids": inputs["input_ids"].eq(cast(int, self.image_id)).int()}
