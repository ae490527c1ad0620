"""Idefics2: one tile an image, or five where the image processor splits it into quarters and the whole."""

from __future__ import annotations

from .family import Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN
from .tiled import TiledFamily


class Idefics2Family(TiledFamily):
    @classmethod
    def mend(cls, text: str) -> str:
        """Neighbouring tiles share a fake token. A word after an image has its space from the tokenizer."""
        return text.replace(FAKE_TOKEN + FAKE_TOKEN, FAKE_TOKEN)

    def spell_image(self, pixels: Pixels) -> str:
        return f"{FAKE_TOKEN}{IMAGE_TOKEN * self.tile_tokens}{FAKE_TOKEN}" * pixels.values.shape[0]

    def set_detail(self, detail: str | None) -> None:
        """Only `low` does not split; there are no more tiles than five."""
        if detail is not None:
            self._check_detail(detail)
            self.processor.image_processor.do_image_splitting = detail != "low"
