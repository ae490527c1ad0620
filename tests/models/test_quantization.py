"""Quantized weights on this machine: what is quantized, what is not, and that it still answers."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation
from idefics_cli.errors import ModelError
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.quantization import check_quantized
from idefics_cli.values import Decoding, ModelSpec
from tests.models.tiny import KINDS, checkpoint, document, picture

A = picture(1)
pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_only_the_language_model_is_quantized(kind: str, quantization: str) -> None:
    spec = ModelSpec(str(checkpoint(kind)), quantization=quantization, device="cpu")
    family = open_family(spec)
    model = load_model(spec, family)
    quantized = {name for name, module in model.named_modules() if "bitsandbytes" in type(module).__module__}
    assert quantized
    assert not any("vision" in name or "lm_head" in name or "connector" in name for name in quantized)
    assert not any("perceiver" in name for name in quantized)
    linear = {
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".layers." in name
    }
    assert {
        name
        for name in linear
        if "vision" not in name and "perceiver" not in name and "connector" not in name
    } <= (quantized)
    works = [Continuation(family.encode(document(A, "An image of"), [A]), Decoding(max_new_tokens=3))]
    (outcome,) = Engine(model, family).run(works)
    assert outcome.generation is not None
    assert outcome.generation.new_tokens > 0


def test_a_model_that_was_not_quantized_is_refused() -> None:
    spec = ModelSpec(str(checkpoint("idefics")))
    family = open_family(spec)
    with pytest.raises(ModelError, match="nothing was quantized"):
        check_quantized(load_model(spec, family), family)


def test_a_quantized_vision_tower_is_refused() -> None:
    spec = ModelSpec(str(checkpoint("idefics")))
    family = open_family(spec)
    model = load_model(spec, family)
    tower = model.model.vision_model.encoder.layers[0].self_attn
    tower.q_proj = import_module("bitsandbytes.nn").Linear4bit(64, 64, compute_dtype=torch.float32)
    with pytest.raises(ModelError, match=r"vision_model.*was quantized"):
        check_quantized(model, family)


@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_int8_names_the_extra_it_needs() -> None:
    spec = ModelSpec(str(checkpoint("idefics")), quantization="int8")
    with pytest.raises(ModelError, match=r"idefics-cli\[int8\]"):
        load_model(spec, open_family(spec))
