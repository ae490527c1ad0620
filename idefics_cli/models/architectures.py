"""What a config.json says about size: how many weights, which of them can be quantized, what a token keeps.

Follows the layers as transformers builds them, and tests hold it to the models themselves. Settings left out have the
values that transformers gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ..errors import ModelError
from .dimensions import OPEN, Count, Dimensions, Linears, count_tower, list_mlp
from .families import FAMILIES
from .tiled_architectures import Idefics2, Idefics3


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


Known = Annotated[Idefics | Idefics2 | Idefics3, Field(discriminator="model_type")]


def measure(config: Mapping[str, Any], name: str) -> Dimensions:
    """The dimensions that a config.json describes; `name` is whose it is, for a ModelError."""
    given = {key: value for key, value in config.items() if value is not None}
    try:
        known: Idefics | Idefics2 | Idefics3 = _ADAPTER.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"].startswith("union_tag"):
            raise ModelError(
                f"the memory that {name} needs cannot be computed: its architecture is {config.get('model_type')!r}",
                hint=f"known: {', '.join(FAMILIES)}",
            ) from error
        place = ".".join(str(step) for step in first["loc"][1:])
        raise ModelError(
            f"the config of {name} is not one of its architecture: {place}: {first['msg']}",
            hint="check its config.json",
        ) from error
    return known.measure()


_ADAPTER: TypeAdapter[Idefics | Idefics2 | Idefics3] = TypeAdapter(Known)
