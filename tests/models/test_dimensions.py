"""Every entry of models.yaml against its architecture on the meta device; the formula against bytes in memory."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from idefics_cli.config import load_packaged_models
from idefics_cli.errors import ModelError
from idefics_cli.models.dimensions import Dimensions
from idefics_cli.models.families import FAMILIES, find_family, measure
from idefics_cli.models.hub.catalog import count_parameters
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.memory.estimate import (
    Demand,
    Precision,
    count_cache_bytes,
    count_quantized,
    count_quantized_bytes,
    count_token_bytes,
    count_weight_bytes,
    estimate,
)
from idefics_cli.models.quantization.kinds import count_weights
from idefics_cli.values import ModelSpec
from tests.models.tiny import KINDS, checkpoint

ENTRIES = load_packaged_models()
OWN = [name for name, entry in ENTRIES.items() if entry.architecture in FAMILIES]
BF16, EIGHT, FOUR = Precision("bfloat16"), Precision("bfloat16", "8bit"), Precision("bfloat16", "4bit")


def config_of(name: str) -> dict[str, Any]:
    entry = ENTRIES[name]
    if entry.config is not None:
        return entry.config
    assert entry.folder is not None
    config: dict[str, Any] = json.loads((Path(entry.folder) / "config.json").read_text())
    return config


@functools.cache
def build_entry(name: str) -> Any:
    return build(config_of(name))


def build(config: dict[str, Any]) -> Any:
    """The model without memory for its weights."""
    settings = json.loads(json.dumps(config))
    loader: Any = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        return loader.from_config(transformers.AutoConfig.for_model(**settings))


def list_quantized(model: nn.Module, unquantized: tuple[str, ...]) -> Iterator[nn.Linear]:
    kept = tuple(f"{name}." for name in unquantized)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(kept):
            yield module


def within(one: float, other: float, part: float) -> bool:
    return math.isclose(one, other, rel_tol=part)


@pytest.mark.parametrize("name", OWN)
def test_an_entry_is_as_large_as_its_architecture(name: str) -> None:
    known = measure(config_of(name), name)
    model = build_entry(name)
    weights = sum(weight.numel() for weight in model.parameters())
    quantized = list(list_quantized(model, find_family(ENTRIES[name].architecture).unquantized))
    bits = sum(module.weight.numel() for module in quantized)
    rows = sum(module.out_features for module in quantized)
    assert within(known.parameters, weights, 0.01)
    assert sum(one.count for one in known.linears) == len(quantized)
    assert within(count_weight_bytes(known, BF16), 2 * weights, 0.01)
    assert within(count_weight_bytes(known, EIGHT), 2 * (weights - bits) + bits + 4 * rows, 0.01)
    # Half a byte, an 8-bit scale for 64, a 32-bit one for 64 x 256 (families of nf4 with double quantization).
    nf4 = bits * (1 / 2 + 1 / 64 + 4 / (64 * 256))
    assert within(count_weight_bytes(known, FOUR), 2 * (weights - bits) + nf4, 0.01)


@pytest.mark.parametrize("name", OWN)
def test_a_token_keeps_as_much_as_the_cache_holds(name: str) -> None:
    """Each layer's own key projection says how wide its keys are, and the values are as many."""
    model = build_entry(name)
    text = getattr(model.model, "text_model", model.model)
    kept = sum(layer.self_attn.k_proj.out_features + layer.self_attn.v_proj.out_features for layer in text.layers)
    assert within(count_token_bytes(measure(config_of(name), name), BF16), 2 * kept, 0.01)


@pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])
def test_the_cache_of_a_real_answer_is_as_computed(kind: str) -> None:
    """Tiny models of each architecture read a text; their caches are counted."""
    folder = checkpoint(kind)
    known = measure(json.loads((folder / "config.json").read_text()), kind)
    loader: Any = transformers.AutoModelForImageTextToText
    model = loader.from_pretrained(folder, dtype=torch.float32)
    assert known.parameters == sum(weight.numel() for weight in model.parameters())
    inputs = {"input_ids": torch.ones(3, 7, dtype=torch.long)}
    if known.architecture == "idefics":  # it reads no text without an image
        side = math.isqrt(known.tile_pixels)
        inputs |= {
            "pixel_values": torch.zeros(3, 1, 3, side, side),
            "image_attention_mask": torch.ones(3, 7, 1, dtype=torch.long),
        }
    cache = model(**inputs, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == count_cache_bytes(known, Precision("float32"), Demand(tokens=7, batch_size=3, images=0))


@pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])
def test_the_headers_count_what_the_formula_counts(kind: str) -> None:
    """Tied weights are in a file once; IDEFICS has buffers of positions in none."""
    folder = checkpoint(kind)
    known = measure(json.loads((folder / "config.json").read_text()), kind)
    assert count_parameters(folder) == known.parameters


@pytest.mark.parametrize("name", ["idefics2", "idefics3", "smolvlm"])
def test_an_estimate_agrees_with_the_formula(name: str) -> None:
    """An architecture that nobody knows, and that is built as one of ours."""
    known = measure(config_of(name), name)
    guessed = measure(config_of(name) | {"model_type": "another"}, name, known.parameters)
    assert guessed.parameters == known.parameters
    assert count_quantized(guessed) == count_quantized(known)
    assert count_token_bytes(guessed, BF16) == count_token_bytes(known, BF16)
    demand = Demand(images=0)
    assert within(estimate(guessed, BF16, demand).total, estimate(known, BF16, demand).total, 0.01)


def test_a_config_that_says_nothing_is_measured_too() -> None:
    odd = {
        "model_type": "odd",
        "vision_config": {"image_size": [28, 28], "patch_size": 14},
        "text_config": None,
    }
    assert estimate(measure(odd, "odd", 10**9), FOUR, Demand()).weights > 10**9 / 4


def test_settings_left_out_are_those_of_transformers() -> None:
    for settings in (
        {"model_type": "idefics"},
        {"model_type": "idefics2"},
        {"model_type": "idefics3"},
        {"model_type": "idefics2", "text_config": {"model_type": "mistral", "hidden_size": 512}},
    ):
        model = build(settings)
        assert measure(settings, "x").parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gpt2"}, "its architecture is 'gpt2'; known: idefics"),
        ({}, "its architecture is None"),
        ({"model_type": "idefics2", "text_config": {"hidden_size": "wide"}}, "text_config.hidden_size"),
        ({"model_type": "idefics", "vocab_size": -1}, "vocab_size"),
        ({"model_type": "idefics3", "text_config": {"model_type": "qwen2"}}, "text_config.model_type"),
    ],
)
def test_a_config_without_a_formula_is_one_line(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match="someone") as caught:
        measure(config, "someone")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "4bit", "8bit", "int8"])
def test_the_weights_in_memory_are_what_the_formula_says(dtype: str, quantization: str | None) -> None:
    if quantization is not None:
        pytest.importorskip("optimum.quanto" if quantization == "int8" else "bitsandbytes")
    folder = ENTRIES["shapes"].folder
    assert folder is not None
    spec = ModelSpec(folder, dtype=dtype, quantization=quantization, device="cpu")
    model = load_model(spec, open_family(spec))
    known = measure(config_of("shapes"), "shapes")
    assert within(count_weight_bytes(known, Precision(dtype, quantization)), count_weights(model).total_bytes, 0.02)


@pytest.fixture
def idefics2() -> Dimensions:
    return measure(config_of("idefics2"), "idefics2")


def test_the_formula_is_the_one_in_words(idefics2: Dimensions) -> None:
    """The figures of an 8B by hand: 2 x 32 layers x 8 heads x 128 x 2 bytes a token; 64 tokens an image, five tiles."""
    demand = Demand(tokens=100, batch_size=4, images=2, detail="high")
    need = estimate(idefics2, BF16, demand)
    assert need.weights == 16_805_536_224
    assert need.cache == (100 + 2 * 5 * 64) * 4 * 131_072
    assert need.total == need.weights + need.cache + need.activations
    assert count_quantized(idefics2) == 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
    eight = count_quantized(idefics2) + 4 * 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    assert count_quantized_bytes(idefics2, EIGHT) == eight


def test_more_of_anything_needs_more(idefics2: Dimensions) -> None:
    least = estimate(idefics2, FOUR, Demand())
    for more in (Demand(tokens=4096), Demand(batch_size=2), Demand(images=9)):
        assert estimate(idefics2, FOUR, more).total > least.total
    assert estimate(idefics2, FOUR, Demand(detail="low")).total < least.total
    assert estimate(idefics2, EIGHT, Demand()).weights > least.weights
