"""Idefics2, Idefics3 and SmolVLM as their config.json describes them: a Mistral or Llama that sees images in tiles.

Settings left out have the values that transformers gives them.
"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass as checked

from .dimensions import OPEN, Count, Dimensions, Linears, count_tower, list_mlp


@checked(frozen=True, config=OPEN)
class Text:
    """Mistral and Llama, which are built alike."""

    model_type: Literal["mistral", "llama"] = "llama"
    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count | None = None
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None

    @property
    def inner(self) -> int:
        return self.intermediate_size or (14336 if self.model_type == "mistral" else 11008)

    @property
    def kv_width(self) -> int:
        usual = 8 if self.model_type == "mistral" else self.num_attention_heads
        return self._head * (self.num_key_value_heads or usual)

    @property
    def linears(self) -> tuple[Linears, ...]:
        layers, hidden, attended = self.num_hidden_layers, self.hidden_size, self._attended
        return (
            Linears(layers, attended, hidden),
            Linears(2 * layers, self.kv_width, hidden),
            Linears(layers, hidden, attended),
            *list_mlp(layers, hidden, self.inner),
        )

    def count(self, *, is_tied: bool) -> int:
        words = self.vocab_size * self.hidden_size * (1 if is_tied else 2)
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        return words + norms + sum(one.weights for one in self.linears)

    @property
    def _head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def _attended(self) -> int:
        return self._head * self.num_attention_heads


@checked(frozen=True, config=OPEN)
class TiledVision:
    hidden_size: Count
    intermediate_size: Count = 3072
    num_hidden_layers: Count = 12
    patch_size: Count = 32
    image_size: Count = 224

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    def count(self) -> int:
        width = self.hidden_size
        tower = count_tower(width, self.intermediate_size, self.num_hidden_layers, self.patch_size)
        return tower + width + self.patches * width + 2 * width


@checked(frozen=True, config=OPEN)
class TiledPerceiver:
    """As wide as the text, whatever its own settings say."""

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
        return _tiled(
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


@checked(frozen=True, config=OPEN)
class Idefics3:
    """SmolVLM is built the same way."""

    model_type: Literal["idefics3", "smolvlm"]
    text_config: Text = Text()
    vision_config: TiledVision = TiledVision(hidden_size=1152)
    scale_factor: Count = 2
    tie_word_embeddings: bool = False

    def measure(self) -> Dimensions:
        shrunk = self.scale_factor**2
        connector = self.vision_config.hidden_size * shrunk * self.text_config.hidden_size
        tokens = self.vision_config.patches // shrunk
        return _tiled(
            self.model_type,
            self.text_config,
            self.vision_config,
            connector,
            tokens,
            is_tied=self.tie_word_embeddings,
        )


def _tiled(
    architecture: str, text: Text, vision: TiledVision, connector: int, tile_tokens: int, *, is_tied: bool
) -> Dimensions:
    return Dimensions(
        architecture=architecture,
        parameters=text.count(is_tied=is_tied) + vision.count() + connector,
        linears=text.linears,
        layers=text.num_hidden_layers,
        kv_width=text.kv_width,
        width=text.hidden_size,
        inner_width=text.inner,
        vocabulary=text.vocab_size,
        vision_width=vision.hidden_size,
        vision_inner_width=vision.intermediate_size,
        patches=vision.patches,
        tile_pixels=vision.image_size**2,
        tile_features=tile_tokens,
        feature_width=text.hidden_size,
        tile_tokens=tile_tokens,
    )
