"""Qwen-VL and related architectures: an image token has a position in three dimensions, and text continues after the
largest of them.

Positions are computed here from the grid of each image, so that a prompt can be continued anywhere. Where the vision
tower also feeds the first layers of the text model, those features are kept beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from .family import Encoded, Pixels
from .templated import SpelledImage, TemplatedFamily

if TYPE_CHECKING:
    from torch import Tensor

_GRID = "image_grid_thw"


class MropeFamily(TemplatedFamily):
    def place_tokens(self, encoded: Encoded) -> Tensor | None:
        import torch

        parts: list[Tensor] = []
        start = end = 0
        for span, pixels in zip(encoded.spans, encoded.pixels, strict=True):
            parts.append(_count(start, span.start - end))
            start += span.start - end
            grid = self._read_grid(pixels)
            axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
            parts.append(torch.stack(axes).reshape(3, -1) + start)
            start += max(grid[1:])
            end = span.stop
        parts.append(_count(start, len(encoded.ids) - end))
        return torch.cat(parts, dim=1)

    def count_skipped(self, encoded: Encoded) -> int:
        spans = sum(span.stop - span.start for span in encoded.spans)
        return sum(max(self._read_grid(one)[1:]) for one in encoded.pixels) - spans

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        inputs = super().collate(rows)
        return inputs | {"mm_token_type_ids": inputs["input_ids"].eq(cast(int, self.image_id)).int()}

    def encode_images(self, model: Any, pixels: Sequence[Pixels]) -> list[Tensor]:
        """The features of each image, followed by those for deeper layers."""
        import torch

        found = self._look(model, pixels)
        kinds = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
        return [torch.cat(parts, dim=-1) for parts in zip(*kinds, strict=True)]

    def join_features(self, placed: Sequence[Tensor] | Tensor) -> Any:
        import torch
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        width = self.text_config.hidden_size
        first, *deeper = zip(*(torch.split(one, width, dim=-1) for one in placed), strict=True)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=cast(Any, first), deepstack_features=cast(Any, deeper) or None
        )

    def _read_grid(self, pixels: Pixels) -> tuple[int, int, int]:
        """How many tokens an image has along each dimension."""
        assert isinstance(pixels, SpelledImage)
        times, height, width = pixels.tensors[_GRID][0].tolist()
        merge = self.config.vision_config.spatial_merge_size
        return times, height // merge, width // merge


def _count(start: int, count: int) -> Tensor:
    import torch

    return torch.arange(start, start + count).expand(3, -1)
