"""Pixels stay bytes until they are on the device: a processor's float of each of the 256 values is looked up there, bit
for bit.

A processor that does anything else between resizing and its tensors runs unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .family import Pixels

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor


class PixelTable:
    """Rescaling and normalisation of one image processor, as a table for each channel."""

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor

    @property
    def keeps_bytes(self) -> bool:
        """Whether the processor's resized bytes and this table give its tensors."""
        wanted = ("do_resize", "do_rescale", "do_normalize")
        return all(getattr(self._processor, name, False) for name in wanted)

    @cached_property
    def floats(self) -> Tensor:
        """The float of each value, for each channel, by the processor's own arithmetic."""
        import numpy
        import torch

        processor = self._processor
        channels = len(processor.image_mean)
        every = numpy.broadcast_to(numpy.arange(256, dtype=numpy.uint8), (channels, 1, 256))
        scaled = processor.rescale(every, processor.rescale_factor)
        made = processor.normalize(scaled, processor.image_mean, processor.image_std)
        return torch.from_numpy(numpy.ascontiguousarray(made[:, 0], dtype=numpy.float32))

    def look_up(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """The floats of tiles by channels by height by width; padding is zero, as in the processor."""
        import torch

        if values.dtype != torch.uint8:
            return values
        if values.device.type == "cpu":
            found = self._look_up_here(values)
        else:
            table = self.floats.to(values.device)
            found = torch.stack([own[values[:, channel].int()] for channel, own in enumerate(table)], dim=1)
        return found if mask is None else found * mask[:, None].to(found.dtype)

    def _look_up_here(self, values: Tensor) -> Tensor:
        import torch

        found = torch.empty(values.shape, dtype=torch.float32)
        bytes_, floats = values.numpy(), found.numpy()
        for channel, own in enumerate(self.floats.numpy()):
            floats[:, channel] = own[bytes_[:, channel]]
        return found


def stack(tiles: Sequence[PIL.Image.Image]) -> Pixels:
    """Tiles by channels by height by width, with a mask where they are not of one size."""
    import numpy
    import torch

    height = max(tile.height for tile in tiles)
    width = max(tile.width for tile in tiles)
    values = torch.zeros(len(tiles), 3, height, width, dtype=torch.uint8)
    mask = torch.zeros(len(tiles), height, width, dtype=torch.bool)
    for place, tile in enumerate(tiles):
        bytes_ = torch.from_numpy(numpy.array(tile))
        values[place, :, : tile.height, : tile.width] = bytes_.permute(2, 0, 1)
        mask[place, : tile.height, : tile.width] = True
    return Pixels(values, None if bool(mask.all()) else mask)


class SizeOnly:
    """An array that has only the size of an image, for functions of processors that read no more."""

    def __init__(self, image: PIL.Image.Image) -> None:
        self.shape = (3, image.height, image.width)
