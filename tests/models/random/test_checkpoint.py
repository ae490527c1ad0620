"""Random weights come through the ordinary loader, are the same each time, and never stop or stammer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers

from idefics_cli.errors import UsageError
from idefics_cli.models.families import FAMILIES, TEMPLATED
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.random.checkpoint import (
    SHAPES,
    find_architecture,
    is_random,
    list_architectures,
    write_checkpoint,
    write_weights,
)
from idefics_cli.values import Image, ModelSpec
from tests.models.tiny import user

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
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(BILLIONS[name], abs=5e-4)
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


def test_written_weights_are_the_drawn_ones(tmp_path: Path) -> None:
    write_checkpoint("tiled", tmp_path, ["What is in this image?"])
    spec = ModelSpec(str(tmp_path))
    family = open_family(spec)
    drawn = load_model(spec, family).state_dict()
    write_weights(family, tmp_path)
    assert not is_random(str(tmp_path))
    loader: Any = transformers.AutoModelForImageTextToText
    read = loader.from_pretrained(tmp_path).state_dict()
    head = drawn.pop("lm_head.weight")
    assert all(torch.equal(weight, read[name]) for name, weight in drawn.items())
    differs = (head != read["lm_head.weight"]).any(dim=1).nonzero().flatten().tolist()
    assert sorted(differs) == sorted(family.banned_ids), "no program says what stands for an image"


IMAGE_TOKENS = {
    "idefics2": 5 * 64,
    "llava": 576,
    "internvl": 13 * 256,
    "aya_vision": 13 * 169,
    "mistral3": 23 * 18,
    "gemma3": 256,
    "qwen2_5_vl": 23 * 17,
    "qwen3_vl": 20 * 15,
    "gemma4": 266,
    "mllama": 1,
}
"""Of an image of 640 by 480, as the processors of the published checkpoints have it."""
SOME = ("qwen3_vl", "gemma4")


def test_every_architecture_has_a_small_shape() -> None:
    assert {*FAMILIES, *TEMPLATED} <= {find_architecture(name) for name in list_architectures()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in IMAGE_TOKENS]
)
def test_small_shapes_have_real_images(name: str, tmp_path: Path) -> None:
    write_checkpoint(list_architectures()[name], tmp_path, ["What is in this image?"])
    family = open_family(ModelSpec(str(tmp_path)))
    image = Image("photo", PIL.Image.effect_noise((640, 480), 80).convert("RGB"), "photo")
    ids = family.encode((user(image, "What is in this image?"),), [image]).ids
    token = getattr(family.config, "image_token_id", None)
    assert ids.count(token) == IMAGE_TOKENS[name]


def test_idefics2_without_word_marks_has_the_ids_of_its_processor(tmp_path: Path) -> None:
    write_checkpoint(list_architectures()["idefics2"], tmp_path, ["What is in this image?"])
    family = open_family(ModelSpec(str(tmp_path)))
    image = Image("photo", PIL.Image.effect_noise((640, 480), 80).convert("RGB"), "photo")
    for words in ("What is in this image?", " What is this?", "<", ""):
        prompt = (user(image, words),)
        made = family.processor(text=[family.render(prompt)], images=[[image.pixels]], add_special_tokens=False)
        assert list(family.encode(prompt, [image]).ids) == made["input_ids"][0]


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known: tiny, small"):
        write_checkpoint("gpt", tmp_path, [])
