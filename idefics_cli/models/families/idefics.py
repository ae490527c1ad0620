"""IDEFICS (model type `idefics`): images reach the text by gated cross-attention.

An image costs three tokens, two beside another one. Each token sees only the most recent image before it.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ...values import Image, Prompt, Style
from ..dimensions import OPEN, Count, Dimensions, Linears, count_tower, list_mlp
from .cached_projections import remembering
from .family import Encoded, ImageSpan, Pixels
from .layout import FAKE_TOKEN, IMAGE_TOKEN, MARKERS, SPECIAL_IDS, Slot, continue_with, lay_out
from .pixel_table import stack
from .placeholder_family import PlaceholderFamily, TokenRange

if TYPE_CHECKING:
    from torch import Tensor


@checked(frozen=True, config=OPEN)
class IdeficsVision:
    embed_dim: Count = 768
    intermediate_size: Count = 5120
    num_hidden_layers: Count = 32
    patch_size: Count = 14
    image_size: Count = 224


@checked(frozen=True, config=OPEN)
class Perceiver:
    resampler_n_latents: Count = 64
    resampler_depth: Count = 6
    resampler_n_heads: Count = 16
    resampler_head_dim: Count = 96
    qk_layer_norms_perceiver: bool = False


@checked(frozen=True, config=OPEN)
class Idefics:
    model_type: Literal["idefics"]
    vocab_size: Count = 32000
    additional_vocab_size: Annotated[int, Field(ge=0)] = 0
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    cross_layer_interval: Count = 1
    qk_layer_norms: bool = False
    alpha_type: Literal["float", "vector"] = "float"
    use_resampler: bool = False
    tie_word_embeddings: bool = False
    vision_config: IdeficsVision = IdeficsVision()
    perceiver_config: Perceiver = Perceiver()

    def measure(self) -> Dimensions:
        hidden, inner, seen = self.hidden_size, self.intermediate_size, self.vision_config.embed_dim
        crossed = self.num_hidden_layers // self.cross_layer_interval
        layers = self.num_hidden_layers + crossed
        linears = (
            Linears(4 * self.num_hidden_layers + 2 * crossed, hidden, hidden),
            Linears(2 * crossed, hidden, seen),
            *list_mlp(layers, hidden, inner),
        )
        gates = 2 * (hidden if self.alpha_type == "vector" else 1)
        head_norms = 2 * (hidden // self.num_attention_heads) if self.qk_layer_norms else 0
        words = (self.vocab_size + self.additional_vocab_size) * hidden
        vision = self.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2 + 1  # and one for the whole image
        tower = (
            count_tower(seen, vision.intermediate_size, vision.num_hidden_layers, vision.patch_size)
            + (patches + 1) * seen
            + 4 * seen
        )
        return Dimensions(
            architecture="idefics",
            parameters=words * (1 if self.tie_word_embeddings else 2)
            + sum(one.weights for one in linears)
            + 2 * hidden * layers
            + hidden
            + crossed * (gates + head_norms)
            + tower
            + (self._count_resampler() if self.use_resampler else 0),
            linears=linears,
            layers=self.num_hidden_layers,
            kv_width=hidden,
            width=hidden,
            inner_width=inner,
            vocabulary=self.vocab_size + self.additional_vocab_size,
            vision_width=seen,
            vision_inner_width=vision.intermediate_size,
            patches=patches,
            tile_pixels=vision.image_size**2,
            tile_features=self.perceiver_config.resampler_n_latents if self.use_resampler else patches,
            feature_width=seen,
            tile_tokens=3,
        )

    def _count_resampler(self) -> int:
        one, width = self.perceiver_config, self.vision_config.embed_dim
        attended = one.resampler_n_heads * one.resampler_head_dim
        norms = 4 * width + (4 * one.resampler_head_dim if one.qk_layer_norms_perceiver else 0)
        block = norms + 4 * width * attended + 2 * width + 2 * width * 4 * width
        return one.resampler_n_latents * width + one.resampler_depth * block + 2 * width


class IdeficsFamily(PlaceholderFamily):
    sizes = Idefics
    begins_words = True
    detail_tiles = MappingProxyType({None: 1})
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
    def build_random(cls, sizes: Mapping[str, Any], build_tokenizer: Callable[..., Any]) -> tuple[Any, Any]:
        import transformers

        markers = MARKERS[: sizes["additional_vocab_size"]]
        tokenizer = build_tokenizer(sizes["vocab_size"] + len(markers), bos="<s>", added=markers)
        images = transformers.IdeficsImageProcessorPil(image_size=sizes["vision_config"]["image_size"])
        # Gates of zero, as training begins with, would shut the images out.
        copied = {key: dict(value) if isinstance(value, Mapping) else value for key, value in sizes.items()}
        settings: dict[str, Any] = copied | SPECIAL_IDS | {"alpha_initializer": "ones"}
        config = transformers.AutoConfig.for_model(**settings)
        return config, transformers.IdeficsProcessor(images, tokenizer)

    def call_processor(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Any]], *, adds_bos: bool
    ) -> dict[str, Any]:
        """Calls the processor with texts and images in turn; it adds the beginning of text itself."""
        items = [_interleave(text.removeprefix(self.bos), own) for text, own in zip(texts, pictures, strict=True)]
        return {"text": items, "padding": "longest", "add_end_of_utterance_token": False}

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

    @property
    def image_edge(self) -> int:
        size = self.processor.image_processor.size
        return int(max(size.width, size.height))

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
        """The images of these tokens, and the last one before them if they begin before an image."""
        return sorted({index for index in self._see(token_range) if index >= 0})

    def image_inputs(
        self, rows: Sequence[TokenRange], width: int, features: Mapping[str, Tensor], *, labels: int = 0
    ) -> dict[str, Any]:
        import torch

        images = [self.find_images(row) for row in rows]
        digests = [[row.encoded.spans[index].digest for index in own] for row, own in zip(rows, images, strict=True)]
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
        """Only the image that the last token sees: the others would be computed for nothing."""
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
        return {name: inputs["image_hidden_states"], "image_attention_mask": inputs["image_attention_mask"]}

    def remembering(self, model: Any) -> AbstractContextManager[None]:
        """The keys and values of the images, which the model would project again for every token."""
        attentions = [layer.cross_attn for layer in model.model.gated_cross_attn_layers]
        names = ("k_proj", "v_proj", "k_layer_norm")
        return remembering(
            getattr(attention, name) for attention in attentions for name in names if hasattr(attention, name)
        )

    def _find_uncut(self, encoded: Encoded) -> Sequence[ImageSpan]:
        """Only the image token and what follows it see the image; the marker before it still sees the former one."""
        places = [place for place, token in enumerate(encoded.ids) if token == self.image_id]
        return [ImageSpan(place, place + 1, span.digest) for place, span in zip(places, encoded.spans, strict=True)]

    def _see(self, token_range: TokenRange) -> list[int]:
        return self._find_seen_images(token_range.encoded.ids[: token_range.stop])[token_range.start :]

    def _find_seen_images(self, ids: Sequence[int]) -> list[int]:
        """For each token the image it sees: -1 before the first image and after the end of a document."""
        seen: list[int] = []
        latest, is_ended = -1, False
        end = self.tokenizer.eos_token_id
        for token in ids:
            if token == self.image_id:
                latest, is_ended = latest + 1, False
            seen.append(-1 if is_ended else latest)
            is_ended = is_ended or token == end
        return seen


def _interleave(text: str, pictures: Sequence[Any]) -> list[Any]:
    """Texts and images in turn, as the processor of IDEFICS takes a prompt."""
    texts = text.replace(FAKE_TOKEN, "").split(IMAGE_TOKEN)
    items: list[Any] = [texts[0]]
    for words, picture in zip(texts[1:], pictures, strict=True):
        items += [picture, words]
    return [item for item in items if item != ""]
