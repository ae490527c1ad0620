"""Quantized weights on disk: the first load of a checkpoint keeps them in the user's cache, later ones read only them.

An entry is a folder of safetensors and a config that transformers reads like any checkpoint. It is written beside its
place and moved there, so it is complete or not there. Its name depends on everything that the bits depend on, so
another revision, setting or library version is another entry. A failure here is logged and costs only time.
"""

# transformers and huggingface_hub are typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import hashlib
import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError

from ...figures import format_bytes
from ...files import count_folder_bytes, open_folder_draft, sync
from ...values import ModelSpec
from ..families.family import Family
from ..hub.cache import find_commit
from ..random.checkpoint import is_random
from .entries import ORIGIN, QuantizedEntry, list_entries, name_checkpoint, quantized_root
from .kinds import list_quantized
from .table import is_cached

log = logging.getLogger(__name__)

LIBRARIES = ("bitsandbytes", "transformers", "torch")
SHARD_BYTES = 5 * 10**9
DRAFT = ".draft-"


def find_entry(spec: ModelSpec, family: Family, device: torch.device, dtype: torch.dtype) -> QuantizedEntry | None:
    """The entry of a spec, None if it is not to be kept."""
    if not spec.keeps_quantized or not is_cached(spec.quantization) or is_random(spec.checkpoint):
        return None
    identity = _identify(spec)
    if identity is None:
        return None
    origin = {
        "checkpoint": name_checkpoint(spec.checkpoint),
        "identity": identity,
        "quantization": spec.quantization,
        "unquantized": list(family.unquantized),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "versions": {name: version(name) for name in LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]
    name = Path(spec.checkpoint).name if Path(spec.checkpoint).is_dir() else spec.checkpoint
    slug = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)
    return QuantizedEntry(quantized_root() / f"{slug}-{spec.quantization}-{digest}", origin)


def keep(entry: QuantizedEntry, model: Any) -> None:
    """Write the quantized weights of a model that has not answered yet: on some CPUs the first answer packs them in
    place.
    """
    root = entry.folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{entry.folder.name}.lock", timeout=0):
            if entry.is_there:
                return
            _remove_drafts(root, entry.folder.name)
            with open_folder_draft(entry.folder, f"{DRAFT}{entry.folder.name}-") as draft:
                _write(draft, entry, model)
    except Timeout:
        return  # another process is writing the same
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        log.info(
            "the quantized weights were not kept (%s: %s); set IDEFICS_CACHE_DIR to another folder, "
            "or use --no-quantized-cache",
            root,
            reason,
        )
        return
    log.info(
        "quantized weights kept in %s (%s): later runs load only these",
        entry.folder,
        format_bytes(count_folder_bytes(entry.folder)),
    )
    _remove_outdated(entry)


def widen(model: Any, dtype: torch.dtype) -> None:
    """Convert weights that were written in fewer bytes to the precision they had."""
    if dtype == torch.float32:
        packed = tuple(f"{name}." for name in list_quantized(model))
        for name, weight in model.named_parameters():
            if weight.dtype == torch.bfloat16 and not name.startswith(packed):
                weight.data = weight.data.float()


def discard(entry: QuantizedEntry, reason: str) -> None:
    """Remove an entry that cannot be read."""
    log.info("the quantized weights in %s cannot be read (%s); quantizing again", entry.folder, reason)
    shutil.rmtree(entry.folder, ignore_errors=True)


def _identify(spec: ModelSpec) -> str | None:
    """The commit of a checkpoint, or the names, sizes and times of a folder's files. None if neither is known."""
    folder = Path(spec.checkpoint)
    if not folder.is_dir():
        return find_commit(spec.checkpoint, spec.revision)
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.json")))
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def _write(draft: Path, entry: QuantizedEntry, model: Any) -> None:
    state = _narrow(model)
    save_torch_state_dict(state, draft, max_shard_size=SHARD_BYTES, metadata={"format": "pt"})
    model.config.save_pretrained(draft)
    (draft / ORIGIN).write_text(json.dumps(entry.origin, indent=2), encoding="utf-8")
    for path in draft.iterdir():
        sync(path)


def _narrow(model: Any) -> dict[str, torch.Tensor]:
    """The weights by name; float32 ones that bfloat16 holds without loss are written in half the bytes."""
    packed = tuple(f"{name}." for name in list_quantized(model))
    is_wide = model.dtype == torch.float32
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        state[name] = value
        if is_wide and value.dtype == torch.float32 and not name.startswith(packed):
            narrow = value.bfloat16()
            if torch.equal(narrow.float(), value):
                state[name] = narrow
    return state


def _remove_drafts(root: Path, name: str) -> None:
    """Remove what a stopped process left; with the lock held, nobody else is writing it."""
    for draft in root.glob(f"{DRAFT}{name}-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _remove_outdated(entry: QuantizedEntry) -> None:
    """Remove entries that are never used again: the same weights by other versions, or a folder's former state."""
    has_changed_folder = Path(str(entry.origin["checkpoint"])).is_dir()
    for folder, size in list_entries():
        try:
            origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
            is_same = all(
                origin[key] == entry.origin[key]
                for key in ("checkpoint", "quantization", "dtype", "device", "unquantized")
            )
            is_old = origin["versions"] != entry.origin["versions"] or (
                has_changed_folder and origin["identity"] != entry.origin["identity"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_same and is_old and folder != entry.folder:
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed outdated quantized weights: %s (%s)", folder, format_bytes(size))
