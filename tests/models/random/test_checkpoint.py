"""Random weights come through the ordinary loader, are the same each time, and never stop or stammer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from idefics_cli.errors import UsageError
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.random.checkpoint import SHAPES, write_checkpoint
from idefics_cli.values import ModelSpec

BILLIONS = {
    "small": 0.047,
    "smolvlm-256m": 0.256,
    "smolvlm-500m": 0.507,
    "smolvlm": 2.246,
    "idefics2-8b": 8.403,
    "idefics3-8b": 8.462,
    "idefics-9b": 8.930,
    "idefics-80b": 79.968,
}


@pytest.mark.parametrize("name", [name for name in SHAPES if name in BILLIONS])
def test_shapes_are_those_of_the_real_checkpoints(name: str, tmp_path: Path) -> None:
    write_checkpoint(name, tmp_path, ["What is in this image?"])
    family = open_family(ModelSpec(str(tmp_path)))
    with torch.device("meta"):
        loader: Any = transformers.AutoModelForImageTextToText
        model = loader.from_config(family.config)
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(
        BILLIONS[name], abs=5e-4
    )
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20e6, "no weights are written"
    assert family.stop_ids
    assert len(family.banned_ids) == 2


@pytest.mark.parametrize("quantization", [None, "4bit"])
def test_weights_are_drawn_alike_each_time(quantization: str | None, tmp_path: Path) -> None:
    write_checkpoint("tiny", tmp_path, ["What is in this image?"])
    spec = ModelSpec(str(tmp_path), quantization=quantization)
    family = open_family(spec)
    one, other = (load_model(spec, family).state_dict() for _ in range(2))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items() if torch.is_tensor(weight))
    quiet = [family.tokenizer.get_vocab()[token] for token in ("</s>", "\u00e9")]
    assert not one["lm_head.weight"][quiet].any()


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known: tiny, small"):
        write_checkpoint("gpt", tmp_path, [])
