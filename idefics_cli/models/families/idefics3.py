"""Idefics3 and SmolVLM: a grid of tiles, each with its row and column, and the whole image after them."""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic.dataclasses import dataclass as checked

from ...values import Style
from ..dimensions import OPEN, Count, Dimensions
from .family import Pixels
from .image_processors import DETAILS, check_detail
from .layout import CHAT_TEMPLATE, END_OF_UTTERANCE, FAKE_TOKEN, IMAGE_TOKEN
from .pixel_table import SizeOnly, stack
from .tiled import Text, TiledFamily, TiledVision, measure_tiled

if TYPE_CHECKING:
    import PIL.Image

WHOLE_IMAGE = "<global-img>"
_TILES_BY_DETAIL = dict(zip(DETAILS, (1, 2, 4), strict=True))


@checked(frozen=True, config=OPEN)
class Idefics3:
    """SmolVLM has the same architecture."""

    model_type: Literal["idefics3", "smolvlm"]
    text_config: Text = Text()
    vision_config: TiledVision = TiledVision(hidden_size=1152)
    scale_factor: Count = 2
    tie_word_embeddings: bool = False

    def measure(self) -> Dimensions:
        shrunk = self.scale_factor**2
        connector = self.vision_config.hidden_size * shrunk * self.text_config.hidden_size
        tokens = self.vision_config.patches // shrunk
        return measure_tiled(
            self.model_type,
            self.text_config,
            self.vision_config,
            connector,
            tokens,
            is_tied=self.tie_word_embeddings,
        )


class Idefics3Family(TiledFamily):
    sizes = Idefics3
    detail_tiles = MappingProxyType({None: 17, "low": 1, "medium": 5})
    bos = "<|begin_of_text|>"
    markers = (
        IMAGE_TOKEN,
        FAKE_TOKEN,
        END_OF_UTTERANCE,
        WHOLE_IMAGE,
        *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
    )

    @classmethod
    def _build_processor(cls, edge: int, tokenizer: Any, tile_tokens: int) -> Any:
        import transformers

        images = transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": 4 * edge}, max_image_size={"longest_edge": edge}
        )
        template = cls.bos + CHAT_TEMPLATE
        return transformers.Idefics3Processor(images, tokenizer, image_seq_len=tile_tokens, chat_template=template)

    @property
    def default_style(self) -> Style:
        """There are no base checkpoints of this architecture."""
        return "chat"

    @property
    def image_options(self) -> dict[str, Any]:
        return {"return_row_col_info": True}

    @property
    def image_edge(self) -> int:
        return int(dict(self.processor.image_processor.size)["longest_edge"])

    def cut(self, image: PIL.Image.Image) -> Pixels:
        """A grid of square tiles and the whole image; only the whole image if it is no larger than a tile."""
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
            (col * side, row * side, (col + 1) * side, (row + 1) * side) for row in range(rows) for col in range(cols)
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
            "".join(f"{FAKE_TOKEN}<row_{row + 1}_col_{col + 1}>{placeholders}" for col in range(pixels.cols)) + "\n"
            for row in range(pixels.rows)
        )
        return f"{grid}\n{whole}"

    def set_detail(self, detail: str | None) -> None:
        """The longest edge in tiles: one, two or four."""
        if detail is not None:
            check_detail(detail)
            image_processor = self.processor.image_processor
            tile = dict(image_processor.max_image_size)["longest_edge"]
            image_processor.size = {"longest_edge": _TILES_BY_DETAIL[detail] * tile}
            image_processor.do_image_splitting = True


def _round_up(width: int, height: int, side: int) -> tuple[int, int]:
    """The size in whole tiles, computed from the longer edge first, as the image processor does."""
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

    @classmethod
    def open_processor(cls, checkpoint: str, config: Any, source: Mapping[str, Any]) -> Any:
        """SmolVLM2's own needs num2words and torchvision for videos; for images Idefics3's gives the same."""
        import transformers

        vision = config.vision_config
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, **source)
        return transformers.Idefics3Processor(
            transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **source),
            tokenizer,
            image_seq_len=(vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2,
            chat_template=tokenizer.chat_template,
        )
