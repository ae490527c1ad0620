"""Estimated dimensions of an architecture without a formula, from its number of weights and common config keys.

The number is exact, as it comes from the headers of the files; cache and activations are those of a plain decoder with
the sizes in the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..dimensions import Dimensions, Linears, list_mlp
from .image_processors import DETAILS

_SQUARE_TILES = {
    "internvl": (1, 5, 10),
    "aya_vision": (1, 5, 10),
    "llava_next": (3, 3, 5),
    "llava_onevision": (2, 10, 10),
}
"""Tiles of a square image of a megapixel at each `--detail`, the whole image among them."""
_GRANITE_TILES, _GRANITE_EDGE = (2, 5, 10), 384
_TEXTS = ("text_config", "llm_config", "language_config")


def measure_any(config: Mapping[str, Any], parameters: int) -> Dimensions:
    """The dimensions of a checkpoint with so many weights."""
    text = next((config[name] for name in _TEXTS if isinstance(config.get(name), Mapping)), config)
    seen = config.get("vision_config")
    vision = seen if isinstance(seen, Mapping) else {}
    width = _read(text, 4096, "hidden_size")
    inner = _read(text, 11008, "intermediate_size")
    layers = _read(text, 32, "num_hidden_layers")
    heads = _read(text, 32, "num_attention_heads")
    head = _read(text, max(1, width // heads), "head_dim")
    kv_width = _read(text, heads, "num_key_value_heads") * head
    vision_width = _read(vision, 1024, "hidden_size", "embed_dim")
    patch, edge = _read(vision, 14, "patch_size"), _read(vision, 448, "image_size")
    merge = _read(vision, 1, "spatial_merge_size")
    patches = max(1, (edge // patch) ** 2)
    tokens = _read(config, patches // merge**2, "image_seq_length", "mm_tokens_per_image")
    linears = (
        Linears(layers, heads * head, width),
        Linears(2 * layers, kv_width, width),
        Linears(layers, width, heads * head),
        *list_mlp(layers, width, inner),
    )
    return Dimensions(
        architecture=str(config.get("model_type")),
        parameters=parameters,
        linears=linears if sum(one.weights for one in linears) < parameters else (),
        layers=layers,
        kv_width=kv_width,
        width=width,
        inner_width=inner,
        vocabulary=_read(text, 32000, "vocab_size"),
        vision_width=vision_width,
        vision_inner_width=_read(vision, 4 * vision_width, "intermediate_size"),
        patches=patches,
        tile_pixels=edge**2,
        tile_features=max(1, tokens),
        feature_width=width,
        tile_tokens=max(1, tokens),
        tiles=_find_tiles(str(config.get("model_type")), edge),
    )


def _find_tiles(architecture: str, edge: int) -> Mapping[str | None, int]:
    """Granite Vision is a LLaVA-NeXT of larger tiles, and of more of them."""
    is_granite = architecture == "llava_next" and edge == _GRANITE_EDGE
    counts = _GRANITE_TILES if is_granite else _SQUARE_TILES.get(architecture)
    if counts is None:
        return {None: 4 if architecture == "mllama" else 1}
    return {None: counts[-1], **dict(zip(DETAILS, counts, strict=True))}


def _read(config: Mapping[str, Any], default: int, *names: str) -> int:
    """The first of these keys with a positive number; some configs have one for each side of an image."""
    for name in names:
        value = config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return default
