"""Checks of a checkpoint's settings: numbers in the range of real models, objects where objects belong.

A number outside its range means a damaged or hostile file; building a model from it could take all memory or never end.
Plain values only; reads no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError

HINT = "download it again, or do not trust it"
ATTENTIONS = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "paged_attention"}
MAX_VOCABULARY = 1_000_000
MAX_EDGE = 4096
MAX_TILES_A_SIDE = 20
MAX_GROWTH = 64
"""How many letters a tokenizer may make of one."""
PACKED = 16
"""A packed weight stands for at most so many."""
LAYERS, HEADS, WIDTH, PLACES = (1, 1000), (1, 4096), (1, 1_000_000), (1, 100_000)
RANGES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth", "resampler_depth"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "cross_layer_interval"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "n_heads", "n_head"), HEADS),
    **dict.fromkeys(("resampler_n_heads",), HEADS),
    **dict.fromkeys(
        ("hidden_size", "embed_dim", "intermediate_size", "d_model", "head_dim", "resampler_head_dim"), WIDTH
    ),
    **dict.fromkeys(
        ("patch_size", "temporal_patch_size", "merge_size", "spatial_merge_size", "scale_factor"), (1, 1024)
    ),
    **dict.fromkeys(("num_channels", "image_num_channels", "in_channels", "in_chans"), (1, 1024)),
    **dict.fromkeys(("image_seq_len", "image_seq_length", "num_image_tokens", "mm_tokens_per_image"), PLACES),
    "resampler_n_latents": PLACES,
    "image_size": (1, 16_384),
    "vocab_size": (1, MAX_VOCABULARY),
    "additional_vocab_size": (0, MAX_VOCABULARY),
    "num_labels": (0, 100_000),
    "max_position_embeddings": (1, 100_000_000),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), (0, 4096)),
    **dict.fromkeys(("height", "width"), (1, MAX_EDGE)),
    **dict.fromkeys(("shortest_edge", "longest_edge", "max_pixels", "min_pixels"), (1, 40_000_000)),
    **dict.fromkeys(("size", "crop_size", "max_image_size", "min_image_size"), (1, MAX_EDGE)),
    "pad_to_multiple_of": (1, 100_000),
    "Fixed": (0, 1_000_000),
}
"""The least and the most of every number of the kind, wherever in a file its key is. A list has several of them."""
_TILED = {"idefics", "idefics2", "idefics3", "smolvlm"}
"""Where an edge is one of an image, not a number of pixels."""
_WIDEST = 10**12


def check_config(
    config: Mapping[str, Any], where: str, *, tensors: int | None = None, weights: int | None = None
) -> None:
    """Raise ModelError for a config that no model has; with the sizes of its files, also for more than they hold."""
    for key, value in config.items():
        if key.endswith("_config") and not isinstance(value, dict | None):
            raise _refuse(where, key, "is not an object")
    if not isinstance(config.get("model_type", ""), str):
        raise _refuse(where, "model_type", "is not a text")
    for place, key, value in _walk(config):
        if key.endswith("attn_implementation") or key == "_experts_implementation":
            _check_attention(value, where, place)
        if isinstance(value, int) and not isinstance(value, bool):
            if "layers" in key and not -1000 <= value <= LAYERS[1]:
                raise _refuse(where, place, f"is {_show(value)}")
            if tensors is not None and RANGES.get(key) is LAYERS and value > tensors:
                raise _refuse(where, place, f"is {value:,}, with {tensors:,} tensors in its weights")
    check_sizes(config, where)
    for inner in (config, *(one for one in config.values() if isinstance(one, dict))):
        _check_fit(inner, where)
        words, width = inner.get("vocab_size"), inner.get("hidden_size")
        if (
            weights is not None
            and isinstance(words, int)
            and isinstance(width, int)
            and words * width > PACKED * weights
        ):
            raise _refuse(where, "vocab_size", f"is {words:,}, with {weights:,} weights in its files")


def check_sizes(settings: Mapping[str, Any], where: str, *, model_type: object = None) -> None:
    """Raise ModelError for a number outside the range of its key, or for another type in its place."""
    for place, key, value in _walk(settings):
        if key in RANGES and value is not None:
            low, high = RANGES[key]
            if key in ("shortest_edge", "longest_edge") and model_type in _TILED:
                high = MAX_EDGE
            for number in _list_numbers(value, where, place):
                if not low <= number <= high:
                    raise _refuse(where, place, f"is {_show(number)}, not between {low:,} and {high:,}")
        elif isinstance(value, int) and abs(value) > _WIDEST:
            raise _refuse(where, place, "is too large")
        if key == "image_std" and isinstance(value, list) and 0 in value:
            raise _refuse(where, place, "has a 0")
    for inner in (settings, settings.get("image_processor")):
        if isinstance(inner, dict):
            _check_tiles(inner, where)


def check_tokenizer(tokenizer: Mapping[str, Any], where: str) -> None:
    """Raise ModelError for a tokenizer whose words, patterns or replacements have no bound."""
    model = tokenizer.get("model", {})
    if not isinstance(model, dict) or not isinstance(vocabulary := model.get("vocab", {}), dict | list):
        raise _refuse(where, "model", "is not an object with a vocabulary")
    if len(vocabulary) > MAX_VOCABULARY:
        raise _refuse(where, "model.vocab", f"has {len(vocabulary):,} words")
    growth = 1
    rest = {key: value for key, value in tokenizer.items() if key not in ("model", "added_tokens")}
    for place, key, value in _walk(rest):
        if key == "Regex" and isinstance(value, str) and backtracks(value):
            raise _refuse(where, place, f"is {value[:100]!r}, a pattern that may never finish")
        if key in ("content", "prepend") and isinstance(value, str) and place.startswith("normalizer"):
            growth *= max(1, len(value))
    if growth > MAX_GROWTH:
        raise _refuse(where, "normalizer", "makes long texts of short ones")
    check_sizes({"padding": tokenizer.get("padding")}, where)


def check_tokenizer_settings(settings: Mapping[str, Any], where: str, folder: Path) -> None:
    """Raise ModelError if the settings name an existing file outside the folder."""
    for key, value in settings.items():
        if key.endswith("_file") and isinstance(value, str) and len(value) < 4096 and "\0" not in value:
            path = folder / value
            if path.exists() and not path.resolve().is_relative_to(folder.resolve()) and path.name != value:
                raise _refuse(where, key, f"is {value[:100]!r}, which is outside the folder")


def backtracks(pattern: str) -> bool:
    """Whether a repeated group has a repetition or a choice within, which may take exponential time to match."""
    pattern = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)
    groups: list[tuple[bool, bool]] = []  # whether it is atomic, whether what is before it in its own group varies
    varies = False
    for token in re.finditer(r"\((?:\?(?:[:=!>]|<[=!]|[a-z-]*:))?|\)|\||[+*?]\+|[+*]|\{\d*,\d*\}", pattern):
        text = token.group()
        if text.startswith("("):
            groups.append((text == "(?>", varies))
            varies = False
        elif text == ")" and groups:
            is_atomic, before = groups.pop()
            varies = varies and not is_atomic
            if varies and re.match(r"[+*](?!\+)|\{\d*,(?:\d\d+)?\}", pattern[token.end() : token.end() + 12]):
                return True
            varies |= before
        elif text in ("|", "+", "*") or re.fullmatch(r"\{\d*,(?:\d\d+)?\}", text):
            varies = True
    return False


def _check_attention(value: Any, where: str, place: str) -> None:
    for one in value.values() if isinstance(value, dict) else [value]:
        if one is not None and (not isinstance(one, str) or one not in ATTENTIONS):
            raise ModelError(
                f"{where}: {place} is {str(one)[:100]!r}, an attention that is not built in, and no code is downloaded",
                hint="remove the line if you trust the rest",
            )


def _check_fit(inner: Mapping[str, Any], where: str) -> None:
    for small, large in (("num_attention_heads", "hidden_size"), ("patch_size", "image_size")):
        one, other = inner.get(small), inner.get(large)
        if isinstance(one, int) and isinstance(other, int) and one > other:
            raise _refuse(where, small, f"is {one:,}, more than its {large}")


def _check_tiles(settings: Mapping[str, Any], where: str) -> None:
    whole, tile = settings.get("size"), settings.get("max_image_size")
    if isinstance(whole, dict) and isinstance(tile, dict):
        for one in tile.values():
            edges = [edge for edge in whole.values() if isinstance(edge, int)]
            if isinstance(one, int) and edges and max(edges) > MAX_TILES_A_SIDE * max(1, one):
                raise _refuse(where, "max_image_size", f"is {one:,}, which cuts an image into too many tiles")


def _list_numbers(value: Any, where: str, place: str) -> Iterator[float]:
    if isinstance(value, dict):  # its own keys are ranges too
        return
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, list):
            yield from _list_numbers(one, where, place)
        elif isinstance(one, bool) or not isinstance(one, int | float):
            raise _refuse(where, place, "is not a number")
        else:
            yield one


def _walk(value: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every key of an object and of those within, with its path and value."""
    inner = value.items() if isinstance(value, dict) else ((str(number), one) for number, one in enumerate(value))
    for key, one in inner:
        path = f"{place}.{key}" if place else str(key)
        if isinstance(value, dict):
            yield path, key, one
        if isinstance(one, dict | list):
            yield from _walk(one, path)


def _show(number: float) -> str:
    return f"{number:,}" if abs(number) <= _WIDEST else "out of all bounds"


def _refuse(where: str, place: str, problem: str) -> ModelError:
    return ModelError(f"{where}: {place[:100]} {problem}", hint=HINT)
