"""Quantized weights on disk: read alone the next time, the same to the last bit, and never half there."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import shutil
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from idefics_cli.config import resolve_model
from idefics_cli.figures import format_bytes
from idefics_cli.files import count_folder_bytes
from idefics_cli.models.hub.cache import repo_folder
from idefics_cli.models.loading import load_model, open_family
from idefics_cli.models.quantization import disk_cache as quantized_cache
from idefics_cli.models.quantization.disk_cache import find_entry
from idefics_cli.models.quantization.entries import ORIGIN, list_entries, quantized_root
from idefics_cli.values import ModelSpec
from tests.models.tiny import KINDS, checkpoint

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of its own, which a test may spoil."""
    return Path(shutil.copytree(checkpoint("idefics-resampler"), tmp_path / "copy"))


def spec_of(folder: Path, quantization: str = "4bit") -> ModelSpec:
    return ModelSpec(str(folder), quantization=quantization, device="cpu")


def load(spec: ModelSpec) -> dict[str, torch.Tensor]:
    return dict(load_model(spec, open_family(spec)).state_dict())


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def spoil(path: Path) -> None:
    """Another file of the same size and time in its place; what was read of the former may still be mapped."""
    seen = path.stat()
    path.unlink()
    path.write_bytes(b"\xff" * seen.st_size)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.parametrize("kind", [*KINDS, "smolvlm"])
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_the_second_load_reads_only_the_kept_weights(kind: str, quantization: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint(kind), tmp_path / "copy"))
    first = load(spec_of(copy, quantization))
    spoil(copy / "model.safetensors")
    assert_equal(load(spec_of(copy, quantization)), first)


def test_a_download_is_kept_by_its_commit(folder: Path) -> None:
    family = open_family(spec_of(folder))
    spec = ModelSpec("someone/tiny", quantization="4bit", device="cpu")
    entries = []
    for commit in ("c0ffee", "decade"):
        shutil.copytree(folder, repo_folder("someone/tiny") / "snapshots" / commit)
        refs = repo_folder("someone/tiny") / "refs"
        refs.mkdir(exist_ok=True)
        (refs / "main").write_text(commit)
        entry = find_entry(spec, family, torch.device("cpu"), torch.float32)
        assert entry is not None
        assert entry.origin["identity"] == commit
        entries.append(entry.folder)
    assert len(set(entries)) == 2


@pytest.mark.parametrize(("quantization", "most"), [("4bit", 0.60), ("8bit", 0.75)])
def test_the_embedded_checkpoint_takes_about_half_the_bytes(quantization: str, most: float) -> None:
    """Its vision tower, which stays as it is, is a large part of it. It is bfloat16 on disk and so are its leavings."""
    source = Path(resolve_model("shapes").checkpoint)
    spec = spec_of(source, quantization)
    first = load(spec)
    ((_, size),) = list_entries()
    assert 0.5 < size / (source / "model.safetensors").stat().st_size < most
    assert_equal(load(spec), first)


def test_what_is_kept_is_told_and_only_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "idefics_cli")
    load(spec_of(folder))
    ((entry, size),) = list_entries()
    assert f"kept in {entry} ({format_bytes(size)})" in caplog.text
    caplog.clear()
    load(spec_of(folder))
    assert not caplog.records


def test_nothing_is_kept_where_nobody_wants_it(folder: Path) -> None:
    load(replace(spec_of(folder), keeps_quantized=False))
    load(ModelSpec(str(folder)))
    assert not list(list_entries())
    assert not quantized_root().exists()


@pytest.mark.parametrize("change", ["file", "setting", "version"])
def test_what_has_changed_is_quantized_anew(change: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(spec_of(folder))
    ((before, _),) = list_entries()
    spec = spec_of(folder)
    if change == "file":
        os.utime(folder / "model.safetensors", (1, 1))
    elif change == "setting":
        spec = replace(spec, dtype="bfloat16")
    else:
        monkeypatch.setattr(quantized_cache, "version", lambda name: "99.0")
    load(spec)
    after = [entry for entry, _ in list_entries()]
    assert (before in after) == (change == "setting"), "what can never be used again is removed"
    assert len(after) == (2 if change == "setting" else 1)
    assert after != [before]


@pytest.mark.parametrize("damage", ["truncated", "gone", "half"])
def test_damaged_entries_are_made_anew(damage: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "idefics_cli")
    first = load(spec_of(folder))
    ((entry, _),) = list_entries()
    weights = entry / "model.safetensors"
    if damage == "truncated":
        begun = weights.read_bytes()[:5000]
        weights.unlink()
        weights.write_bytes(begun)
    elif damage == "gone":
        weights.unlink()
    else:
        from safetensors.torch import load_file, save_file

        kept = {name: value.clone() for name, value in load_file(weights).items() if ".layers.1." not in name}
        weights.unlink()
        save_file(kept, weights, metadata={"format": "pt"})
    assert_equal(load(spec_of(folder)), first)
    assert "quantizing again" in caplog.text
    spoil(folder / "model.safetensors")
    assert_equal(load(spec_of(folder)), first)


def test_a_draft_that_a_crash_has_left_is_cleared_away(folder: Path) -> None:
    load(spec_of(folder))
    ((entry, _),) = list_entries()
    shutil.rmtree(entry)
    left = entry.parent / f"{quantized_cache.DRAFT}{entry.name}-abc"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"x")
    load(spec_of(folder))
    assert [found for found, _ in list_entries()] == [entry]
    assert not left.exists()


@pytest.mark.parametrize("trouble", ["no folder", "full"])
def test_without_room_for_it_the_model_loads_all_the_same(
    trouble: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "idefics_cli")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if trouble == "no folder":
        quantized_root().parent.parent.mkdir(parents=True, exist_ok=True)
        quantized_root().parent.write_text("a file where the cache should be")
    else:  # writing fails on the way, as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert load(spec_of(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "not kept" in caplog.text
    assert "--no-quantized-cache" in caplog.text
    assert not list(list_entries())
    assert not list(quantized_root().glob(f"{quantized_cache.DRAFT}*"))


def _load_in_child(folder: str, home: str, barrier: Any, result: Any) -> None:
    os.environ["IDEFICS_CACHE_DIR"] = home
    spec = spec_of(Path(folder))
    family = open_family(spec)
    barrier.wait()
    began = time.perf_counter()
    load_model(spec, family)
    result.put(time.perf_counter() - began)


def test_two_processes_leave_one_whole_entry(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, result = context.Barrier(2), context.Queue()
    home = str(tmp_path / "cache")
    children = [context.Process(target=_load_in_child, args=(str(folder), home, barrier, result)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=300)
    assert [child.exitcode for child in children] == [0, 0]
    os.environ["IDEFICS_CACHE_DIR"] = home
    ((entry, size),) = list_entries()
    assert size == count_folder_bytes(entry)
    assert json.loads((entry / ORIGIN).read_text())["quantization"] == "4bit"
    assert not list(entry.parent.glob(f"{quantized_cache.DRAFT}*"))
    expected = load(replace(spec_of(folder), keeps_quantized=False))
    spoil(folder / "model.safetensors")
    assert_equal(load(spec_of(folder)), expected)
