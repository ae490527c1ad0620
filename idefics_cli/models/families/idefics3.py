"""Idefics3 and SmolVLM: a grid of tiles, each with its row and column, and the whole image after them."""

from __future__ import annotations

from typing import Any

from ...values import Style
from .family import Pixels
from .layout import END_OF_UTTERANCE, FAKE_TOKEN, IMAGE_TOKEN
from .tiled import DETAILS, TiledFamily

WHOLE_IMAGE = "<global-img>"
_TILES_BY_DETAIL = dict(zip(DETAILS, (1, 2, 4), strict=True))


class Idefics3Family(TiledFamily):
    bos = "<|begin_of_text|>"
    markers = (
        IMAGE_TOKEN,
        FAKE_TOKEN,
        END_OF_UTTERANCE,
        WHOLE_IMAGE,
        *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
    )

    @property
    def default_style(self) -> Style:
        """There are no base checkpoints of this architecture."""
        return "chat"

    @property
    def image_options(self) -> dict[str, Any]:
        return {"return_row_col_info": True}

    def spell_image(self, pixels: Pixels) -> str:
        placeholders = IMAGE_TOKEN * self.tile_tokens
        whole = f"{FAKE_TOKEN}{WHOLE_IMAGE}{placeholders}{FAKE_TOKEN}"
        if pixels.rows == 0:
            return whole
        grid = "".join(
            "".join(f"{FAKE_TOKEN}<row_{row + 1}_col_{col + 1}>{placeholders}" for col in range(pixels.cols))
            + "\n"
            for row in range(pixels.rows)
        )
        return f"{grid}\n{whole}"

    def set_detail(self, detail: str | None) -> None:
        """The longest edge in tiles: one, two or four of them."""
        if detail is not None:
            self._check_detail(detail)
            image_processor = self.processor.image_processor
            tile = dict(image_processor.max_image_size)["longest_edge"]
            image_processor.size = {"longest_edge": _TILES_BY_DETAIL[detail] * tile}
            image_processor.do_image_splitting = True


class SmolVLMFamily(Idefics3Family):
    bos = "<|im_start|>"
