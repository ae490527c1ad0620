"""The weights of the other architectures in models.yaml, counted by the classes of transformers from their shapes."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from idefics_cli.config import load_packaged_models
from idefics_cli.models.families import measure

SIGLIP = {"model_type": "siglip_vision_model", "num_attention_heads": 16}
SMALL_TOWER = {"num_heads": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]}
REST: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = {
    "qwen3-vl-8b": (
        {},
        {**SMALL_TOWER, "deepstack_visual_indexes": [8, 16, 24], "out_hidden_size": 4096},
        {"tie_word_embeddings": False},
    ),
    "qwen3-vl-4b": ({}, {**SMALL_TOWER, "out_hidden_size": 2560}, {"tie_word_embeddings": True}),
    "qwen3-vl-2b": ({}, {**SMALL_TOWER, "out_hidden_size": 2048}, {"tie_word_embeddings": True}),
    "qwen2.5-vl-7b": ({}, {"out_hidden_size": 3584}, {"tie_word_embeddings": False}),
    "qwen2.5-vl-3b": ({}, {"out_hidden_size": 2048}, {"tie_word_embeddings": True}),
    "gemma-3-4b": ({}, {**SIGLIP, "vision_use_head": False}, {"tie_word_embeddings": True}),
    "internvl3.5-8b": (
        {"model_type": "qwen3"},
        {"num_attention_heads": 16},
        {"tie_word_embeddings": False},
    ),
    "internvl3.5-2b": (
        {"model_type": "qwen3"},
        {"num_attention_heads": 16},
        {"tie_word_embeddings": False},
    ),
    "llava-onevision-7b": (
        {"model_type": "qwen2"},
        {**SIGLIP, "vision_use_head": False},
        {"tie_word_embeddings": False},
    ),
    "llava-onevision-0.5b": (
        {"model_type": "qwen2"},
        {**SIGLIP, "vision_use_head": False},
        {"tie_word_embeddings": True},
    ),
    "granite-vision": (
        {"model_type": "granite", "head_dim": 64},
        SIGLIP,
        {"tie_word_embeddings": True, "vision_feature_layer": [-24, -20, -12, -1]},
    ),
}
"""What of a shape no size of ours depends on: of the text model, of the tower, and of both."""


def test_every_one_is_counted() -> None:
    named = {name for name, one in load_packaged_models().items() if one.parameters is not None}
    assert named == set(REST)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_the_weights_are_those_of_the_shape(name: str) -> None:
    entry = load_packaged_models()[name]
    text, vision, more = REST[name]
    known: dict[str, Any] = dict(entry.config or {}) | dict(more)
    tied = {"tie_word_embeddings": more["tie_word_embeddings"]}
    known["text_config"] = {**known["text_config"], **text, **tied}
    known["vision_config"] = {**known["vision_config"], **vision}
    loader: Any = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        model = loader.from_config(transformers.AutoConfig.for_model(**known))
    assert sum(weight.numel() for weight in model.parameters()) == entry.parameters


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("internvl3.5-8b", {None: 2560, "low": 256, "medium": 1280, "high": 2560}),
        ("llava-onevision-7b", {None: 7290, "low": 1458, "medium": 7290, "high": 7290}),
        ("granite-vision", {None: 7290, "low": 1458, "medium": 3645, "high": 7290}),
        ("qwen3-vl-2b", {None: 196}),
    ],
)
def test_tiles_of_an_image_are_counted(name: str, tokens: Mapping[str | None, int]) -> None:
    entry = load_packaged_models()[name]
    known = measure(entry.config or {}, name, entry.parameters)
    assert {detail: count * known.tile_tokens for detail, count in known.tiles.items()} == tokens
