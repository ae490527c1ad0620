"""The IDEFICS line: we lay out the text ourselves and mark the place of each image by tokens.

A subclass holds only its difference: how it spells an image, how it prepares and stacks pixels.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ModelError
from ...values import Choice, Image, Prompt
from .family import Encoded, Family, ImageSpan, Pixels, any_of, check_images, refuse_markers
from .layout import FAKE_TOKEN, IMAGE_TOKEN, Piece, Slot, continue_with, lay_out, spell

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_CACHE_BYTES = 256 * 1024 * 1024


class MarkedFamily(Family):
    bos: str = "<s>"
    """Beginning of text; the checkpoint's own once there is a tokenizer."""
    shown_image: ClassVar[str] = IMAGE_TOKEN
    """An image in a rendered prompt."""

    def __init__(
        self, processor: Any, config: Any, *, generation: Any = None, detail: str | None = None
    ) -> None:
        super().__init__(processor, config, generation=generation, detail=detail)
        if self.image_id is None or self.fake_id is None:
            raise ModelError(
                f"the tokenizer of this {config.model_type} checkpoint knows no {IMAGE_TOKEN} or {FAKE_TOKEN}",
                hint="its files are damaged or of another architecture; download the checkpoint again",
            )
        self.bos = self.tokenizer.bos_token or ""
        self._pixels: OrderedDict[str, Pixels] = OrderedDict()

    @classmethod
    def render_plainly(cls, prompt: Prompt) -> str:
        """The prompt text of this architecture without a tokenizer at hand."""
        return cls._render(prompt, cls.bos, any_of(cls.markers))

    def render(self, prompt: Prompt) -> str:
        """The prompt text, beginning of text included, with one marker per image."""
        return self._render(prompt, self.bos, self._forbidden)

    def encode(self, prompt: Prompt, images: Sequence[Image]) -> Encoded:
        """The prompt as ids, spans and pixels. `images` are those of the prompt, in its order."""
        return self._encode(lay_out(prompt, strip_turns=self.strip_turns), images)

    def encode_choice(self, prompt: Prompt, images: Sequence[Image], choice: Choice) -> Encoded:
        """The prompt with a label after it, tokenised as one text: ids may merge across the seam."""
        pieces = (*lay_out(prompt, strip_turns=self.strip_turns), *continue_with(prompt, choice.continuation))
        return self._encode(pieces, images)

    def tokenize(self, pieces: Sequence[Piece], spellings: Sequence[str]) -> tuple[int, ...]:
        """Beginning of text and the pieces as ids; `spellings` are the texts of the images."""
        self._refuse_special_tokens(pieces)
        bos = self.tokenizer.bos_token_id
        return (*(() if bos is None else (bos,)), *self._tokenize_text(self.mend(spell(pieces, spellings))))

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Left-padded model inputs of one or more prompts."""
        import torch

        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, width - len(row.ids) :] = torch.tensor(row.ids)
            mask[index, width - len(row.ids) :] = 1
        return {"input_ids": ids, "attention_mask": mask, **self.collate_images(rows, width)}

    @abstractmethod
    def spell_image(self, pixels: Pixels) -> str:
        """The text that stands for an image, placeholders included."""

    @abstractmethod
    def prepare(self, image: Image) -> Pixels:
        """An image's pixels through the checkpoint's image processor."""

    @abstractmethod
    def collate_images(self, rows: Sequence[Encoded], width: int) -> dict[str, Tensor]:
        """The image inputs of a batch whose ids are padded to `width`."""

    @classmethod
    def mend(cls, text: str) -> str:
        """The text as the architecture wants it around images."""
        return text

    @classmethod
    def _render(cls, prompt: Prompt, bos: str, forbidden: re.Pattern[str]) -> str:
        pieces = lay_out(prompt, strip_turns=cls.strip_turns)
        refuse_markers(pieces, forbidden)
        return bos + cls.mend(
            spell(pieces, [cls.shown_image] * sum(isinstance(piece, Slot) for piece in pieces))
        )

    def _encode(self, pieces: Sequence[Piece], images: Sequence[Image]) -> Encoded:
        check_images(pieces, images)
        pixels = tuple(self._prepare_once(image) for image in images)
        spellings = [self.spell_image(one) for one in pixels]
        ids = self.tokenize(pieces, spellings)
        spans = self._find_spans(ids, images, [spelling.count(IMAGE_TOKEN) for spelling in spellings])
        encoded = Encoded(ids, spans, pixels)
        self.check_length(encoded)
        return encoded

    def _prepare_once(self, image: Image) -> Pixels:
        """Pixels by digest, kept in a bounded memory: the images of the shots come again with every prompt."""
        pixels = self._pixels.pop(image.digest, None) or self.prepare(image)
        self._pixels[image.digest] = pixels
        while (
            len(self._pixels) > 1
            and sum(one.values.nbytes for one in self._pixels.values()) > PIXEL_CACHE_BYTES
        ):
            self._pixels.popitem(last=False)
        return pixels

    def _find_spans(
        self, ids: Sequence[int], images: Sequence[Image], placeholders: Sequence[int]
    ) -> tuple[ImageSpan, ...]:
        """The extent of each image from its opening to its closing marker; a shared marker is the former image's."""
        places = [index for index, token in enumerate(ids) if token == self.image_id]
        if len(places) != sum(placeholders):
            raise ModelError(
                f"the tokenizer made {len(places)} image tokens of {sum(placeholders)}",
                hint="its tokenizer files are damaged or of another architecture; download the checkpoint again",
            )
        spans: list[ImageSpan] = []
        first = 0
        for image, count in zip(images, placeholders, strict=True):
            start, stop = places[first], places[first + count - 1] + 1
            first += count
            while start > 0 and ids[start] != self.fake_id:
                start -= 1
            while stop < len(ids) and ids[stop - 1] != self.fake_id:
                stop += 1
            spans.append(ImageSpan(max(start, spans[-1].stop if spans else 0), stop, image.digest))
        return tuple(spans)
