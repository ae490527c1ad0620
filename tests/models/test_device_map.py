"""Models that no single device holds: parts wait elsewhere until their turn, and answers stay the same."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from idefics_cli.backends.local import LocalBackend
from idefics_cli.errors import ModelError
from idefics_cli.models import device_map as placement
from idefics_cli.models import devices
from idefics_cli.models.device_map import estimate_bytes, place
from idefics_cli.models.devices import find_input_device
from idefics_cli.models.loading import open_family
from idefics_cli.values import Answer, Choice, Decoding, ModelSpec, Request
from tests.models.tiny import checkpoint, document, picture, user

A, B = picture(1), picture(2, (30, 60))
IMAGES = {image.source: image for image in (A, B)}
SHORT = Decoding(max_new_tokens=2)
COLOURS = tuple(Choice(name, f" {name}\n") for name in ("red", "blue"))
REQUESTS = [
    Request("0", "test", document(A, "This is an image of"), SHORT),
    Request("1", "test", document(A, B, "Category:"), choices=COLOURS),
    Request("2", "test", (user(B, "What colour is the circle?"),), replace(SHORT, num_beams=2)),
]


def answers_of(spec: ModelSpec) -> list[Any]:
    backend = LocalBackend(spec)
    answers = backend.answer(REQUESTS, IMAGES)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    backend.close()
    return [answer.text for answer in answers if isinstance(answer, Answer)]


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics2", "idefics3"])
def test_weights_on_disk_give_the_same_answers(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the memory of the CPU is not to hold stays on disk, as what a GPU is not to hold stays on the CPU."""
    caplog.set_level(logging.INFO, "idefics_cli")
    whole = ModelSpec(str(checkpoint(kind)), device="cpu")
    room = int(0.8 * estimate_bytes(open_family(whole), torch.float32, None))
    backend = LocalBackend(replace(whole, max_memory=(("cpu", room),)))
    weights = backend.count_weights()
    places = set(backend._model.hf_device_map.values())
    assert places == {"cpu", "disk"}
    assert find_input_device(backend._model) == torch.device("cpu")
    assert weights.total_bytes > room
    assert "are kept in CPU memory or on disk" in caplog.text
    assert answers_of(replace(whole, max_memory=(("cpu", room),))) == answers_of(whole)


def test_a_model_that_fits_is_not_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of so much memory, as `place` would see them."""
    spec = ModelSpec(str(checkpoint("idefics")))
    family = open_family(spec)
    needed = estimate_bytes(family, torch.bfloat16, None)
    free = {"cuda": 2 * needed, "cpu": 10 * needed}
    monkeypatch.setattr(placement, "count_free_bytes", lambda device: free[device.type])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda")
    assert place(spec, family, gpu, torch.bfloat16) == {"device_map": {"": "cuda"}}
    free["cuda"] = int(0.9 * needed)
    spread = place(spec, family, gpu, torch.bfloat16)
    assert {*spread["device_map"].values()} == {0, 1}
    tower = [key for key in spread["device_map"] if key.startswith("model.vision_model")]
    assert tower == ["model.vision_model"], "it is not taken apart"
    Path(spread["offload_folder"]).rmdir()
    one = replace(spec, device="cuda:1")
    assert place(one, family, torch.device("cuda:1"), torch.bfloat16) == {"device_map": {"": "cuda:1"}}


def test_what_is_quantized_cannot_wait_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(str(checkpoint("idefics")), quantization="4bit")
    family = open_family(spec)
    monkeypatch.setattr(placement, "count_free_bytes", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModelError, match=r"quantized weights cannot be offloaded; use a smaller --model"):
        place(spec, family, torch.device("cuda"), torch.bfloat16)


def test_budgets_are_for_devices_that_are_there() -> None:
    spec = ModelSpec(str(checkpoint("idefics")), max_memory=(("7", 10**9), ("cpu", 10**9)))
    with pytest.raises(ModelError, match=r"'7', which is not there; there are: .*cpu"):
        LocalBackend(spec).count_weights()


def test_memory_for_nothing_is_refused() -> None:
    spec = ModelSpec(str(checkpoint("idefics3")), max_memory=(("cpu", 1000),))
    with pytest.raises(ModelError, match="not even the embeddings fit"):
        LocalBackend(spec).count_weights()


def test_wide_models_are_bfloat16_where_the_processor_is_fast_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    family = open_family(ModelSpec(str(checkpoint("idefics2"))))
    cpu = torch.device("cpu")
    for is_fast in (True, False):
        monkeypatch.setattr(devices, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
        monkeypatch.setattr(family.text_config, "hidden_size", 64)
        assert devices.choose_dtype("auto", cpu, family) is torch.float32
        monkeypatch.setattr(family.text_config, "hidden_size", 4096)
        assert devices.choose_dtype("auto", cpu, family) is (torch.bfloat16 if is_fast else torch.float32)
