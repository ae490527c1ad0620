"""IDEFICS (model type `idefics`): images reach the text by gated cross-attention.

An image costs three tokens, two beside another one. Each token sees only the most recent image before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ...values import Image, Prompt, Style
from .cached_projections import remembering
from .family import Encoded, ImageSpan, Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN, Slot, continue_with, lay_out
from .pixel_table import stack
from .placeholder_family import PlaceholderFamily, TokenRange

if TYPE_CHECKING:
    from torch import Tensor


class IdeficsFamily(PlaceholderFamily):
    shown_image = f"{FAKE_TOKEN}{IMAGE_TOKEN}{FAKE_TOKEN}"
    strip_turns = True
    has_system_role = False
    has_slots = True
    flash_attention = False
    unsafe_dtypes = frozenset({"float16"})
    unquantized = ("lm_head", "model.vision_model", "model.perceiver_resampler")

    @property
    def default_style(self) -> Style:
        """Only the instruct checkpoints have a token that ends an utterance."""
        return "completion" if self.eou_id is None else "chat"

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
        processor = self.processor.image_processor
        if not self.pixel_table.keeps_bytes:
            return Pixels(processor([image.pixels], return_tensors="pt"))
        size = (processor.size.width, processor.size.height)
        return stack([image.pixels.resize(size, resample=processor.resample)])

    def collate_images(self, rows: Sequence[Encoded], width: int) -> dict[str, Tensor]:
        import torch

        # The model wants pixels even for text alone: one black image that no token sees.
        count = max(1, *(len(row.pixels) for row in rows))
        size = self.config.vision_config.image_size
        pixels = torch.zeros(len(rows), count, self.config.vision_config.num_channels, size, size)
        seen = torch.zeros(len(rows), width, count, dtype=torch.long)
        for index, row in enumerate(rows):
            for place, one in enumerate(row.pixels):
                pixels[index, place] = self.pixel_table.look_up(one.values)[0]
            for position, place in enumerate(self._find_seen_images(row.ids), start=width - len(row.ids)):
                if place >= 0:
                    seen[index, position, place] = 1
        return {"pixel_values": pixels, "image_attention_mask": seen}

    def encode_images(self, model: Any, pixels: Sequence[Pixels]) -> list[Tensor]:
        """Patches of the vision tower, or the latents of the resampler."""
        import torch

        from ..devices import find_input_device

        core = model.model
        values = torch.cat([one.values for one in pixels]).to(find_input_device(model))
        values = self.pixel_table.look_up(values).to(core.dtype)
        features = core.vision_model(pixel_values=values).last_hidden_state
        return list(core.perceiver_resampler(features) if self.config.use_resampler else features)

    def find_images(self, token_range: TokenRange) -> list[int]:
        """The images of the stretch, and the last one before it if its first tokens come before an image."""
        return sorted({index for index in self._see(token_range) if index >= 0})

    def image_inputs(
        self, rows: Sequence[TokenRange], width: int, features: Mapping[str, Tensor], *, labels: int = 0
    ) -> dict[str, Any]:
        import torch

        images = [self.find_images(row) for row in rows]
        digests = [
            [row.encoded.spans[index].digest for index in own] for row, own in zip(rows, images, strict=True)
        ]
        some = next(iter(features.values()), torch.zeros(1, self.config.vision_config.embed_dim))
        if digests[0] and all(own == digests[0] for own in digests):
            # The rows see the same images: one copy, shown to all.
            one = torch.stack([features[digest] for digest in digests[0]])
            hidden = one.expand(len(rows), *one.shape)
        else:
            # The model wants an image even for text alone: one that no token sees.
            count = max(1, *(len(own) for own in digests))
            hidden = some.new_zeros(len(rows), count, *some.shape)
            for place, names in enumerate(digests):
                for order, digest in enumerate(names):
                    hidden[place, order] = features[digest]
        seen = torch.zeros(len(rows), width + labels, hidden.shape[1], dtype=torch.long)
        for place, (row, own) in enumerate(zip(rows, images, strict=True)):
            for position, index in enumerate(self._see(row), start=width - (row.stop - row.start)):
                if index >= 0:
                    seen[place, position, own.index(index)] = 1
        seen[:, width:] = seen[:, width - 1 : width]
        return {"image_hidden_states": hidden, "image_attention_mask": seen}

    def last_image_inputs(self, inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Only the image that the last token sees: all others would be attended to in vain."""
        hidden, seen = inputs["image_hidden_states"], inputs["image_attention_mask"][:, -1]
        latest = seen.argmax(-1).tolist()
        if len(set(latest)) == 1:
            hidden = hidden[:, latest[0] : latest[0] + 1]
        else:
            hidden = hidden[list(range(len(latest))), latest][:, None]
        seen = seen.any(-1)[:, None, None].long().expand(-1, count, -1)
        return {"image_hidden_states": hidden, "image_attention_mask": seen}

    def for_forward(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        name = "perceiver_embeddings" if self.config.use_resampler else "image_encoder_embeddings"
        return {
            name: inputs["image_hidden_states"],
            "image_attention_mask": inputs["image_attention_mask"],
        }

    def remembering(self, model: Any) -> AbstractContextManager[None]:
        """The keys and values of the images, which the model projects anew for every token."""
        attentions = [layer.cross_attn for layer in model.model.gated_cross_attn_layers]
        names = ("k_proj", "v_proj", "k_layer_norm")
        return remembering(
            getattr(attention, name) for attention in attentions for name in names if hasattr(attention, name)
        )

    def _find_uncut(self, encoded: Encoded) -> Sequence[ImageSpan]:
        """Only the image token and what follows it see the image; the marker before it still sees the former one."""
        places = [place for place, token in enumerate(encoded.ids) if token == self.image_id]
        return [
            ImageSpan(place, place + 1, span.digest)
            for place, span in zip(places, encoded.spans, strict=True)
        ]

    def _see(self, token_range: TokenRange) -> list[int]:
        return self._find_seen_images(token_range.encoded.ids[: token_range.stop])[token_range.start :]

    def _find_seen_images(self, ids: Sequence[int]) -> list[int]:
        """For each token the image it sees, -1 for none: before the first one and after the end of a document."""
        seen: list[int] = []
        latest, is_ended = -1, False
        end = self.tokenizer.eos_token_id
        for token in ids:
            if token == self.image_id:
                latest, is_ended = latest + 1, False
            seen.append(-1 if is_ended else latest)
            is_ended = is_ended or token == end
        return seen
