"""Idefics2: one tile an image, or five where the image processor splits it into quarters and the whole."""

from __future__ import annotations

import re
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass as checked

from ..dimensions import OPEN, Count, Dimensions
from .family import Pixels
from .image_processors import check_detail
from .layout import CHAT_TEMPLATE, FAKE_TOKEN, IMAGE_TOKEN
from .pixel_table import SizeOnly, stack
from .tiled import Text, TiledFamily, TiledVision, measure_tiled

if TYPE_CHECKING:
    import PIL.Image

_CLOSED = re.compile(rf"{re.escape(FAKE_TOKEN)}(?=[^\s<])")


@checked(frozen=True, config=OPEN)
class TiledPerceiver:
    """As wide as the text model, whatever its own settings say."""

    resampler_n_latents: Count = 64
    resampler_depth: Count = 3
    resampler_n_heads: Count = 16
    resampler_head_dim: Count = 96
    num_key_value_heads: Count = 4


@checked(frozen=True, config=OPEN)
class Idefics2:
    model_type: Literal["idefics2"]
    text_config: Text = Text(model_type="mistral")
    vision_config: TiledVision = TiledVision(hidden_size=768)
    perceiver_config: TiledPerceiver = TiledPerceiver()
    tie_word_embeddings: bool = False

    def measure(self) -> Dimensions:
        seen, inner, hidden = (
            self.vision_config.hidden_size,
            self.text_config.inner,
            self.text_config.hidden_size,
        )
        projection = 2 * seen * inner + inner * hidden
        connector = projection + self._count_resampler()
        latents = self.perceiver_config.resampler_n_latents
        return measure_tiled(
            self.model_type,
            self.text_config,
            self.vision_config,
            connector,
            latents,
            is_tied=self.tie_word_embeddings,
        )

    def _count_resampler(self) -> int:
        one = self.perceiver_config
        width, heads = self.text_config.hidden_size, one.resampler_n_heads + one.num_key_value_heads
        layer = 3 * width + 2 * width * one.resampler_head_dim * heads + 12 * width * width
        return one.resampler_n_latents * width + one.resampler_depth * layer + width


class Idefics2Family(TiledFamily):
    sizes = Idefics2
    begins_words = True
    detail_tiles = MappingProxyType({None: 5, "low": 1})

    @classmethod
    def _build_processor(cls, edge: int, tokenizer: Any, tile_tokens: int) -> Any:
        import transformers

        images = transformers.Idefics2ImageProcessorPil(
            size={"shortest_edge": 378, "longest_edge": edge}, do_image_splitting=True
        )
        return transformers.Idefics2Processor(images, tokenizer, image_seq_len=tile_tokens, chat_template=CHAT_TEMPLATE)

    @classmethod
    def mend(cls, text: str) -> str:
        """Neighbouring tiles share a fake token. The tokenizer puts the space before a word after an image."""
        return text.replace(FAKE_TOKEN + FAKE_TOKEN, FAKE_TOKEN)

    def spell_image(self, pixels: Pixels) -> str:
        return f"{FAKE_TOKEN}{IMAGE_TOKEN * self.tile_tokens}{FAKE_TOKEN}" * pixels.values.shape[0]

    @cached_property
    def _marks_words(self) -> bool:
        return any(token.startswith("\u2581") for token in self.tokenizer.get_vocab())

    def _tokenize_texts(self, texts: list[str]) -> list[list[int]]:
        """As `Idefics2Processor` does where the tokenizer has no word marks: a space before a word after an image."""
        if not self._marks_words:
            texts = [_CLOSED.sub(f"{FAKE_TOKEN} ", text) for text in texts]
        return super()._tokenize_texts(texts)

    @property
    def image_edge(self) -> int:
        """Quarters are cut before they are resized, so twice the edge of one."""
        processor = self.processor.image_processor
        return int(dict(processor.size)["longest_edge"]) * (2 if processor.do_image_splitting else 1)

    def cut(self, image: PIL.Image.Image) -> Pixels:
        """The quarters, if any, and the whole image, each resized by itself."""
        processor = self.processor.image_processor
        width, height = image.size
        if processor.do_image_splitting and min(width, height) < 2:
            raise ValueError("it cannot be cut into quarters; --detail low does not cut it")
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
        """Only `low` differs: no quarters. There are never more than five tiles."""
        if detail is not None:
            check_detail(detail)
            self.processor.image_processor.do_image_splitting = detail != "low"
