"""Idefics3 and SmolVLM: a grid of tiles, each with its row and column, and the whole image after them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from ...values import Style
from .family import Pixels
from .layout import END_OF_UTTERANCE, FAKE_TOKEN, IMAGE_TOKEN
from .pixel_table import SizeOnly, stack
from .tiled import DETAILS, TiledFamily

if TYPE_CHECKING:
    import PIL.Image

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

    def cut(self, image: PIL.Image.Image) -> Pixels:
        """A grid of square tiles and the whole, or the whole alone where it is no larger than a tile."""
        from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

        processor = self.processor.image_processor
        side = dict(processor.max_image_size)["longest_edge"]
        longest = dict(processor.size)["longest_edge"]
        height, width = get_resize_output_image_size(cast(Any, SizeOnly(image)), longest)
        resized = image.resize((width, height), resample=processor.resample)
        whole = (side, side)
        if not processor.do_image_splitting:
            return stack([resized.resize(whole, resample=processor.resample)])
        grid = resized.resize(_round_up(width, height, side), resample=processor.resample)
        if grid.size == whole:
            return stack([grid])
        cols, rows = grid.width // side, grid.height // side
        boxes = [
            (col * side, row * side, (col + 1) * side, (row + 1) * side)
            for row in range(rows)
            for col in range(cols)
        ]
        tiles = [grid.crop(box) for box in boxes]
        made = stack([*tiles, grid.resize(whole, resample=processor.resample)])
        return Pixels(made.values, made.mask, rows, cols)

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


def _round_up(width: int, height: int, side: int) -> tuple[int, int]:
    """The size in whole tiles, the longer edge first, as the image processor counts them."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * ratio) / side) * side
    return width, height


class SmolVLMFamily(Idefics3Family):
    bos = "<|im_start|>"
