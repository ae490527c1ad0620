"""Idefics2: one tile an image, or five where the image processor splits it into quarters and the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import BadItem
from .family import Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN
from .pixel_table import SizeOnly, stack
from .tiled import TiledFamily

if TYPE_CHECKING:
    import PIL.Image


class Idefics2Family(TiledFamily):
    @classmethod
    def mend(cls, text: str) -> str:
        """Neighbouring tiles share a fake token. A word after an image has its space from the tokenizer."""
        return text.replace(FAKE_TOKEN + FAKE_TOKEN, FAKE_TOKEN)

    def spell_image(self, pixels: Pixels) -> str:
        return f"{FAKE_TOKEN}{IMAGE_TOKEN * self.tile_tokens}{FAKE_TOKEN}" * pixels.values.shape[0]

    def cut(self, image: PIL.Image.Image) -> Pixels:
        """The quarters, if any, and the whole, each resized for itself."""
        processor = self.processor.image_processor
        width, height = image.size
        if processor.do_image_splitting and min(width, height) < 2:
            raise BadItem(
                f"an image of {width} x {height} pixels cannot be cut into quarters", hint="use --detail low"
            )
        x, y = width // 2, height // 2
        boxes = [(0, 0, width, height)]
        if processor.do_image_splitting:
            boxes = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height), *boxes]
        return stack([self._resize(image.crop(box) if box != boxes[-1] else image) for box in boxes])

    def _resize(self, tile: PIL.Image.Image) -> PIL.Image.Image:
        from transformers.models.idefics2.image_processing_pil_idefics2 import get_resize_output_image_size

        processor = self.processor.image_processor
        height, width = get_resize_output_image_size(SizeOnly(tile), processor.size)
        return tile.resize((width, height), resample=processor.resample)

    def set_detail(self, detail: str | None) -> None:
        """Only `low` does not split; there are no more tiles than five."""
        if detail is not None:
            self._check_detail(detail)
            self.processor.image_processor.do_image_splitting = detail != "low"
