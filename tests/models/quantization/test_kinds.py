"""Quantized weights on this machine: what is quantized, what is not, and that it still answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from idefics_cli.config import resolve_model
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation
from idefics_cli.errors import ModelError
from idefics_cli.models.device_map import estimate_bytes
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.quantization import table
from idefics_cli.models.quantization.kinds import check_device, check_quantized, count_weights
from idefics_cli.values import Decoding, ModelSpec
from tests.models.tiny import KINDS, checkpoint, document, picture

A = picture(1)
pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


HAS_QUANTO = find_spec("optimum") is not None and find_spec("optimum.quanto") is not None
ALL = [
    "4bit",
    "8bit",
    pytest.param("int8", marks=pytest.mark.skipif(not HAS_QUANTO, reason="quanto is not installed")),
]


@pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])
@pytest.mark.parametrize("quantization", ALL)
def test_only_the_language_model_is_quantized(kind: str, quantization: str) -> None:
    spec = ModelSpec(str(checkpoint(kind)), quantization=quantization, device="cpu", keeps_quantized=False)
    family = open_family(spec)
    model = load_model(spec, family)
    library = "quanto" if quantization == "int8" else "bitsandbytes"
    quantized = {name for name, module in model.named_modules() if library in type(module).__module__}
    weights = count_weights(model)
    # Seven matrices a layer, two layers, and with IDEFICS as many in the gated ones between them.
    assert (
        weights.quantized_modules == len(quantized) == (28 if kind.startswith("idefics-") or kind == "idefics" else 14)
    )
    assert weights.total_bytes == pytest.approx(estimate_bytes(family, model.dtype, quantization), rel=0.15)
    assert not any("vision" in name or "lm_head" in name or "connector" in name for name in quantized)
    assert not any("perceiver" in name for name in quantized)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "layers." in name}
    assert {
        name for name in linear if "vision" not in name and "perceiver" not in name and "connector" not in name
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


@pytest.mark.parametrize(("quantization", "most"), [("4bit", 0.48), ("8bit", 0.55), ("int8", 0.55)])
def test_the_bytes_are_those_of_the_formula(quantization: str, most: float) -> None:
    """Of the embedded checkpoint in float32, to 5 %: two bytes a weight kept, as many bits as said for the others."""
    if quantization == "int8" and not HAS_QUANTO:
        pytest.skip("quanto is not installed")
    whole = ModelSpec(resolve_model("shapes").checkpoint, device="cpu", keeps_quantized=False)
    family = open_family(whole)
    full = count_weights(load_model(whole, family))
    assert full.quantized_modules == full.quantized_bytes == 0
    weights = count_weights(load_model(replace(whole, quantization=quantization), family))
    assert weights.quantized_modules == 56
    for held, name in ((full, None), (weights, quantization)):
        assert held.total_bytes == pytest.approx(estimate_bytes(family, torch.float32, name), rel=0.05)
    assert weights.total_bytes < most * full.total_bytes * 1.1


def test_a_device_the_library_does_not_know_is_refused() -> None:
    family = open_family(ModelSpec(str(checkpoint("idefics"))))
    with pytest.raises(ModelError, match=r"4bit does not work on meta; use --device cpu"):
        check_device("4bit", torch.device("meta"), family)


def test_what_is_quantized_already_is_loaded_and_not_quantized_again(tmp_path: Path) -> None:
    """A checkpoint that was saved in 4 bits, as there are on the hub."""
    spec = ModelSpec(str(checkpoint("idefics")), quantization="4bit", device="cpu", keeps_quantized=False)
    folder = Path(shutil.copytree(spec.checkpoint, tmp_path / "copy"))
    (folder / "model.safetensors").unlink()
    model = load_model(spec, open_family(spec))
    model.save_pretrained(folder)
    ready = ModelSpec(str(folder), device="cpu")
    family = open_family(ready)
    assert count_weights(load_model(ready, family)).quantized_modules == 28
    with pytest.raises(ModelError, match="is quantized already"):
        load_model(replace(ready, quantization="8bit"), family)


@pytest.mark.parametrize("missing", ["optimum.quanto", "bitsandbytes"])
def test_what_must_be_installed_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_spec
    monkeypatch.setattr(table, "find_spec", lambda name: None if name == missing else found(name))
    kind, hint = {
        "optimum.quanto": ("int8", r"idefics-cli\[int8\]"),
        "bitsandbytes": ("4bit", "pip install"),
    }[missing]
    spec = ModelSpec(str(checkpoint("idefics")), quantization=kind)
    with pytest.raises(ModelError, match=hint):
        load_model(spec, open_family(spec))


@pytest.mark.skipif(HAS_QUANTO, reason="quanto is installed")
def test_int8_names_the_extra_it_needs() -> None:
    spec = ModelSpec(str(checkpoint("idefics")), quantization="int8")
    with pytest.raises(ModelError, match=r"idefics-cli\[int8\]"):
        load_model(spec, open_family(spec))


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics3"])
@pytest.mark.parametrize("quantization", [ALL[0], ALL[2]])
def test_a_step_of_quantized_weights_is_that_of_the_model(kind: str, quantization: str) -> None:
    spec = ModelSpec(
        str(checkpoint(kind)),
        dtype="bfloat16",
        quantization=quantization,
        device="cpu",
        keeps_quantized=False,
    )
    family = open_family(spec)
    model = load_model(spec, family)
    row = family.encode(document(A, "Describe"), [A])
    told = []
    for is_fused in (True, False):
        engine = Engine(model, family)
        assert engine._step is not None
        engine._step = engine._step if is_fused else None
        decoder = engine.open_decoder()
        work = Continuation(row, Decoding(max_new_tokens=9))
        (running,) = decoder.admit([work], engine.open_prefix(work, ()))
        with torch.inference_mode():
            decoder._cache.begin_step()
            told.append(decoder._run_step().float())
        assert running.ids
    assert (told[0] - told[1]).abs().max() < 0.05 * told[1].abs().max(), "as far as bfloat16 tells"
