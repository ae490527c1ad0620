"""Idefics2: one tile an image, or five where the image processor splits it into quarters and the whole."""

from __future__ import annotations

import re

from .family import Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN
from .tiled import TiledFamily

_FAKE_BEFORE_WORD = re.compile(rf"{re.escape(FAKE_TOKEN)}(?=[^\s<])")


class Idefics2Family(TiledFamily):
    @classmethod
    def mend(cls, text: str) -> str:
        """Neighbouring tiles share a fake token, and a word after an image keeps its space, as its processor does."""
        return _FAKE_BEFORE_WORD.sub(f"{FAKE_TOKEN} ", text.replace(FAKE_TOKEN + FAKE_TOKEN, FAKE_TOKEN))

    def spell_image(self, pixels: Pixels) -> str:
        return f"{FAKE_TOKEN}{IMAGE_TOKEN * self.tile_tokens}{FAKE_TOKEN}" * pixels.values.shape[0]

    def set_detail(self, detail: str | None) -> None:
        """Only `low` does not split; there are no more tiles than five."""
        if detail is not None:
            self._check_detail(detail)
            self.processor.image_processor.do_image_splitting = detail != "low"
