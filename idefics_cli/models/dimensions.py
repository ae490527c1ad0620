"""What a config.json says about size: how many weights, which of them can be quantized, what a token keeps.

Plain arithmetic over the settings of the four architectures, without torch: it follows the layers as transformers
builds them, and tests hold it to the models themselves. Settings left out have the values that transformers gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from ..errors import ModelError

Count = Annotated[int, Field(gt=0)]
COLOURS = 3
_OPEN = ConfigDict(extra="ignore")  # a config.json says much else


@dataclass(frozen=True, slots=True)
class Linears:
    """Equal linear layers of the language model: how many, and the rows (outputs) and columns of each."""

    count: int
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        return self.count * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of an architecture that memory depends on."""

    architecture: str
    parameters: int
    """All weights, shared ones once."""
    linears: tuple[Linears, ...]
    """What is quantized: not the vision tower, the connector or resampler, nor the output head."""
    layers: int
    kv_width: int
    """Keys of one token in one layer; its values are as many."""
    width: int
    inner_width: int
    vocabulary: int
    vision_width: int
    vision_inner_width: int
    patches: int
    """Positions of one tile in the vision tower."""
    tile_pixels: int
    tile_features: int
    """Vectors of one tile that the text sees."""
    feature_width: int
    tile_tokens: int
    """Tokens of the prompt that a tile takes up."""


@checked(frozen=True, config=_OPEN)
class IdeficsVision:
    embed_dim: Count = 768
    intermediate_size: Count = 5120
    num_hidden_layers: Count = 32
    patch_size: Count = 14
    image_size: Count = 224


@checked(frozen=True, config=_OPEN)
class Perceiver:
    resampler_n_latents: Count = 64
    resampler_depth: Count = 6
    resampler_n_heads: Count = 16
    resampler_head_dim: Count = 96
    qk_layer_norms_perceiver: bool = False


@checked(frozen=True, config=_OPEN)
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
            *_mlp(layers, hidden, inner),
        )
        gates = 2 * (hidden if self.alpha_type == "vector" else 1)
        head_norms = 2 * (hidden // self.num_attention_heads) if self.qk_layer_norms else 0
        words = (self.vocab_size + self.additional_vocab_size) * hidden
        vision = self.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2 + 1  # and one for the whole image
        tower = (
            _tower(seen, vision.intermediate_size, vision.num_hidden_layers, vision.patch_size)
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


@checked(frozen=True, config=_OPEN)
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
            *_mlp(layers, hidden, self.inner),
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


@checked(frozen=True, config=_OPEN)
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
        tower = _tower(width, self.intermediate_size, self.num_hidden_layers, self.patch_size)
        return tower + width + self.patches * width + 2 * width


@checked(frozen=True, config=_OPEN)
class TiledPerceiver:
    """As wide as the text, whatever its own settings say."""

    resampler_n_latents: Count = 64
    resampler_depth: Count = 3
    resampler_n_heads: Count = 16
    resampler_head_dim: Count = 96
    num_key_value_heads: Count = 4


@checked(frozen=True, config=_OPEN)
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


@checked(frozen=True, config=_OPEN)
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
                hint=f"known: {', '.join(ARCHITECTURES)}",
            ) from error
        place = ".".join(str(step) for step in first["loc"][1:])
        raise ModelError(
            f"the config of {name} is not one of its architecture: {place}: {first['msg']}",
            hint="check its config.json",
        ) from error
    return known.measure()


ARCHITECTURES = ("idefics", "idefics2", "idefics3", "smolvlm")
_ADAPTER: TypeAdapter[Idefics | Idefics2 | Idefics3] = TypeAdapter(Known)


def _mlp(layers: int, hidden: int, inner: int) -> tuple[Linears, Linears]:
    return Linears(2 * layers, inner, hidden), Linears(layers, hidden, inner)


def _tower(width: int, inner: int, layers: int, patch: int) -> int:
    """Patches and layers of a vision tower; positions and the outer norms differ by architecture."""
    attention = 4 * (width * width + width)
    mlp = 2 * width * inner + inner + width
    return COLOURS * patch * patch * width + layers * (attention + mlp + 4 * width)


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
