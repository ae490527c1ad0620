"""IDEFICS (model type `idefics`): images reach the text by gated cross-attention.

An image costs three tokens, two beside another one. Each token sees only the most recent image before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...values import Image, Prompt
from .family import Encoded, Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN, Slot, continue_with, lay_out
from .marked import MarkedFamily

if TYPE_CHECKING:
    from torch import Tensor


class IdeficsFamily(MarkedFamily):
    shown_image = f"{FAKE_TOKEN}{IMAGE_TOKEN}{FAKE_TOKEN}"
    strip_turns = True
    flash_attention = False
    unsafe_dtypes = frozenset({"float16"})
    unquantized = ("lm_head", "model.vision_model", "model.perceiver_resampler")

    @classmethod
    def mend(cls, text: str) -> str:
        """Neighbouring images share the fake token between them."""
        return text.replace(FAKE_TOKEN + FAKE_TOKEN, FAKE_TOKEN)

    def spell_image(self, pixels: Pixels) -> str:
        return self.shown_image

    def tokenize_prompt(self, prompt: Prompt, continuation: str | None = None) -> tuple[int, ...]:
        """The ids of a prompt, with an answer after it if given; needs no images, as all cost the same."""
        pieces = lay_out(prompt, strip_turns=self.strip_turns)
        if continuation is not None:
            pieces = (*pieces, *continue_with(prompt, continuation))
        return self.tokenize(pieces, [self.shown_image] * sum(isinstance(piece, Slot) for piece in pieces))

    def prepare(self, image: Image) -> Pixels:
        return Pixels(self.processor.image_processor([image.pixels], return_tensors="pt"))

    def collate_images(self, rows: Sequence[Encoded], width: int) -> dict[str, Tensor]:
        import torch

        # The model wants pixels even for text alone: one black image that no token sees.
        count = max(1, *(len(row.pixels) for row in rows))
        size = self.config.vision_config.image_size
        pixels = torch.zeros(len(rows), count, self.config.vision_config.num_channels, size, size)
        seen = torch.zeros(len(rows), width, count, dtype=torch.long)
        for index, row in enumerate(rows):
            for place, one in enumerate(row.pixels):
                pixels[index, place] = one.values[0]
            for position, place in enumerate(self._find_seen_images(row.ids), start=width - len(row.ids)):
                if place >= 0:
                    seen[index, position, place] = 1
        return {"pixel_values": pixels, "image_attention_mask": seen}

    def _find_seen_images(self, ids: Sequence[int]) -> list[int]:
        """For each token the image it sees, -1 for none: before the first one and after the end of a document."""
        seen: list[int] = []
        latest, is_ended = -1, False
        for token in ids:
            if token == self.image_id:
                latest, is_ended = latest + 1, False
            seen.append(-1 if is_ended else latest)
            is_ended = is_ended or token == self.tokenizer.eos_token_id
        return seen
