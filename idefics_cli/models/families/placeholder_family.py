"""The IDEFICS line: this program lays out the text itself, and tokens mark the place of each image.

A subclass has only what differs: how it spells an image, how it prepares and stacks pixels.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ...errors import BadItem, ModelError
from ...lru import LRUCache
from ...values import Choice, Image, Prompt
from .family import Encoded, Family, ImageSpan, Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN, Piece, Slot, continue_with, lay_out, spell
from .pixel_table import PixelTable
from .refusals import any_of, check_images, preparing, refuse_markers

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_CACHE_BYTES = 256 * 1024 * 1024
"""At most, for images that are prepared: more than are shown again soon."""
PIXEL_PART = 4
"""One part in so many of what may be kept is for them, where that is bounded."""
LABEL_SETS = 16
"""How many sets of labels stay tokenised: one is enough for a folder of images that cost alike."""


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Some of the tokens of a prompt; those before `start` are already in a cache."""

    encoded: Encoded
    start: int
    stop: int


class PlaceholderFamily(Family):
    has_prefixes = True
    sees_ahead: ClassVar[bool] = False
    """Whether the tokens of an image see one another, the later ones too."""
    bos: str = "<s>"
    """Beginning of text; the checkpoint's own once there is a tokenizer."""
    shown_image: ClassVar[str] = IMAGE_TOKEN
    """An image in a rendered prompt."""

    def __init__(self, processor: Any, config: Any, *, generation: Any = None, detail: str | None = None) -> None:
        super().__init__(processor, config, generation=generation, detail=detail)
        self._find_image_tokens()
        self.bos = self.tokenizer.bos_token or ""
        self.pixel_table = PixelTable(processor.image_processor)
        self._pixels: LRUCache[str, Pixels] = LRUCache(PIXEL_CACHE_BYTES)
        self._labels: LRUCache[tuple[str, ...], list[tuple[int, ...]]] = LRUCache(LABEL_SETS)

    def _find_image_tokens(self) -> None:
        if self.image_id is None or self.fake_id is None:
            raise ModelError(
                f"the tokenizer of this {self.config.model_type} checkpoint knows no {IMAGE_TOKEN} or {FAKE_TOKEN}",
                hint="its files are damaged or of another architecture; download the checkpoint again",
            )

    @classmethod
    def render_plainly(cls, prompt: Prompt) -> str:
        """The prompt text of this architecture without a tokenizer at hand."""
        return cls._render(prompt, cls.bos, any_of(cls.markers))

    def render(self, prompt: Prompt, *, thinks: bool | None = None) -> str:
        """The prompt text, beginning of text included, with one marker per image."""
        return self._render(prompt, self.bos, self._forbidden)

    def encode(self, prompt: Prompt, images: Sequence[Image], *, thinks: bool | None = None) -> Encoded:
        """The prompt as ids, spans and pixels. `images` are those of the prompt, in its order."""
        self.check_thinking(thinks)
        self._check_roles(prompt)
        return self._encode(lay_out(prompt, strip_turns=self.strip_turns), images)

    def encode_choices(self, prompt: Prompt, images: Sequence[Image], choices: Sequence[Choice]) -> tuple[Encoded, ...]:
        """The prompt with each label after it. The same labels after the same text are tokenised once."""
        self._check_roles(prompt)
        pieces = lay_out(prompt, strip_turns=self.strip_turns)
        check_images(pieces, images)
        pixels, spellings = self._spell_images(images)
        endings = [continue_with(prompt, choice.continuation) for choice in choices]
        key = (spell(pieces, spellings), *(spell(ending, ()) for ending in endings))
        rows = self._labels.find(key)
        if rows is None:
            self._refuse_special_tokens((*pieces, *(piece for ending in endings for piece in ending)))
            rows = self._tokenize_endings(key[0], key[1:])
            self._labels.keep(key, rows)
        spans = self._find_spans(rows[0], images, [spelling.count(IMAGE_TOKEN) for spelling in spellings])
        self.check_length(Encoded(max(rows, key=len)))
        return tuple(Encoded(row, spans, pixels) for row in rows)

    def tokenize(self, pieces: Sequence[Piece], spellings: Sequence[str]) -> tuple[int, ...]:
        """Beginning of text and the pieces as ids; `spellings` are the texts of the images."""
        self._refuse_special_tokens(pieces)
        return (*self._bos_ids, *self._tokenize_text(self.mend(spell(pieces, spellings))))

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
        """An image's pixels from the checkpoint's image processor."""

    @abstractmethod
    def collate_images(self, rows: Sequence[Encoded], width: int) -> dict[str, Tensor]:
        """The image inputs of a batch whose ids are padded to `width`."""

    @abstractmethod
    def encode_images(self, model: Any, pixels: Sequence[Pixels]) -> list[Tensor]:
        """The features of each image. The images have one shape."""

    @property
    def sees_alone(self) -> bool:
        """Whether every image has a pass of its own through the vision tower."""
        return False

    def count_tiles(self, pixels: Pixels) -> int:
        """How many tiles an image is for the vision tower."""
        return int(pixels.values.shape[0])

    def find_images(self, token_range: TokenRange) -> list[int]:
        """Which images of its prompt these tokens see, in order, if nothing is cached: those whose placeholders are
        among them, as earlier ones are in the cache with their images.
        """
        return [
            index
            for index, span in enumerate(token_range.encoded.spans)
            if token_range.start <= span.start < token_range.stop
        ]

    def image_inputs(
        self, rows: Sequence[TokenRange], width: int, features: Mapping[str, Tensor], *, labels: int = 0
    ) -> dict[str, Any]:
        """The image inputs of `generate` for rows padded on the left to `width`.

        `features` has the images that the rows need, by digest. `labels` more tokens after each row see the same images
        as its last token.
        """
        placed = [features[row.encoded.spans[index].digest] for row in rows for index in self.find_images(row)]
        # The model writes into what it is given, so it is made afresh every time.
        return {"mm_encoder_outputs": {"image": self.join_features(placed)}} if placed else {}

    def join_features(self, placed: Sequence[Tensor] | Tensor) -> Any:
        """The features of images as the vision tower of the model gives them."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=cast(Any, placed))

    def last_image_inputs(self, inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
        """The image inputs for `count` tokens that see the same images as the last ones of `inputs`."""
        return {}

    def for_forward(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Image inputs under the names that the forward of the model has for them."""
        return dict(inputs)

    def remembering(self, model: Any) -> AbstractContextManager[None]:
        """A context in which image inputs that do not change between passes are projected once."""
        return nullcontext()

    def place_tokens(self, encoded: Encoded) -> Tensor | None:
        """The positions of the tokens, dimensions by tokens; None if they are counted."""
        return None

    def count_skipped(self, encoded: Encoded) -> int:
        """How far the position after the prompt is from the number of its tokens."""
        return 0

    def list_units(self, encoded: Encoded) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The ids in pieces between which a prefix may end, each with the digest of its image."""
        units: list[tuple[str, tuple[int, ...]]] = []
        place = 0
        for span in self._find_uncut(encoded):
            units += (("", (token,)) for token in encoded.ids[place : span.start])
            units.append((span.digest, encoded.ids[span.start : span.stop]))
            place = span.stop
        units += (("", (token,)) for token in encoded.ids[place:])
        return tuple(units)

    def _find_uncut(self, encoded: Encoded) -> Sequence[ImageSpan]:
        """The spans that depend on their image and must not be split."""
        return encoded.spans

    @classmethod
    def mend(cls, text: str) -> str:
        """The text with the architecture's rules around images."""
        return text

    @classmethod
    def _render(cls, prompt: Prompt, bos: str, forbidden: re.Pattern[str]) -> str:
        cls._check_roles(prompt)
        pieces = lay_out(prompt, strip_turns=cls.strip_turns)
        refuse_markers(pieces, forbidden)
        return bos + cls.mend(spell(pieces, [cls.shown_image] * sum(isinstance(piece, Slot) for piece in pieces)))

    @classmethod
    def _check_roles(cls, prompt: Prompt) -> None:
        if not cls.has_system_role and any(message.role == "system" for message in prompt):
            raise BadItem("this model was trained without a system message", hint="say it in the first message")

    def _encode(self, pieces: Sequence[Piece], images: Sequence[Image]) -> Encoded:
        check_images(pieces, images)
        pixels, spellings = self._spell_images(images)
        ids = self.tokenize(pieces, spellings)
        spans = self._find_spans(ids, images, [spelling.count(IMAGE_TOKEN) for spelling in spellings])
        encoded = Encoded(ids, spans, pixels)
        self.check_length(encoded)
        return encoded

    def _spell_images(self, images: Sequence[Image]) -> tuple[tuple[Pixels, ...], list[str]]:
        """The pixels of images, and their texts."""
        pixels = tuple(self.prepare_once(image) for image in images)
        return pixels, [self.spell_image(one) for one in pixels]

    @property
    def _bos_ids(self) -> tuple[int, ...]:
        bos = self.tokenizer.bos_token_id
        return () if bos is None else (bos,)

    def _tokenize_endings(self, text: str, endings: Sequence[str]) -> list[tuple[int, ...]]:
        """The ids of a text with each of the endings, tokenised as one text.

        Nothing merges across the marker that closes the last image, so the text before it is tokenised only once.
        """
        whole = [self.mend(text + ending) for ending in endings]
        places = [one.rfind(FAKE_TOKEN) for one in whole]
        first = (*self._bos_ids, *self._tokenize_text(whole[0]))
        if min(places) > 0:
            tails = self._tokenize_texts([one[place:] for one, place in zip(whole, places, strict=True)])
            head = first[: len(first) - len(tails[0])]
            if (*head, *tails[0]) == first and len(
                {one[:place] for one, place in zip(whole, places, strict=True)}
            ) == 1:
                return [(*head, *tail) for tail in tails]
        return [(*self._bos_ids, *ids) for ids in self._tokenize_texts(whole)]

    @property
    def pixel_bytes(self) -> int:
        """The bytes of prepared images that are kept."""
        return self._pixels.used_bytes

    def limit_pixels(self, limit_bytes: int) -> None:
        """Keep at most so many bytes of them."""
        self._pixels.shrink(limit_bytes)

    def count_held_bytes(self, encoded: Encoded, own: Sequence[int]) -> int:
        """Its own images, and those of others that are not kept for them."""
        shown = enumerate(zip(encoded.spans, encoded.pixels, strict=True))
        held = {
            span.digest: pixels.held_bytes
            for place, (span, pixels) in shown
            if place in own or self._pixels.find(span.digest) is not pixels
        }
        return sum(held.values())

    def prepare_once(self, image: Image) -> Pixels:
        """Pixels by digest, kept in a bounded memory: the images of examples come again with every prompt."""
        pixels = self._pixels.find(image.digest)
        if pixels is None:
            with preparing([image], self.config.model_type):
                pixels = self.prepare(image)
            self._pixels.keep(image.digest, pixels, pixels.held_bytes)
        return pixels

    def _find_spans(
        self, ids: Sequence[int], images: Sequence[Image], placeholders: Sequence[int]
    ) -> tuple[ImageSpan, ...]:
        """The extent of each image, markers included; a shared marker belongs to the former image."""
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
