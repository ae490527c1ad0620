"""Checkpoints on this machine, in the hub's cache and in folders, found without importing huggingface_hub.

Reads the documented layout of the cache: refs/NAME holds a commit, snapshots/COMMIT has links to blobs.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...config import Model, hub_cache
from ...errors import ModelError
from ...files import count_folder_bytes

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
MAX_HEADER_BYTES = 50_000_000
_PREFIX = "models--"


def repo_folder(repo: str) -> Path:
    """The folder of the hub's cache for all revisions of a repository."""
    return hub_cache() / f"{_PREFIX}{repo.replace('/', '--')}"


def find_folder(checkpoint: str, revision: str | None = None) -> Path | None:
    """The folder of a downloaded checkpoint's settings: its own, or a snapshot in the hub's cache."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = _snapshot(checkpoint, revision or "main")
    return folder if (folder / "config.json").exists() else None


def find_revision(model: Model) -> str | None:
    """The pinned revision of a named checkpoint; None, the hub's main, if nothing is pinned or only main is here."""
    pinned = model.entry.revision if model.entry else None
    is_here = pinned is None or find_folder(model.checkpoint, pinned) is not None
    return pinned if is_here or find_folder(model.checkpoint) is None else None


def find_commit(checkpoint: str, revision: str | None = None) -> str | None:
    """The commit of a hub checkpoint's revision here; None for a folder, or if nothing of it is here."""
    if Path(checkpoint).is_dir():
        return None
    snapshot = find_folder(checkpoint, revision)
    return snapshot.name if snapshot is not None else None


def is_downloaded(checkpoint: str, revision: str | None = None) -> bool:
    """Whether every file of a hub checkpoint is here, so that no network is needed."""
    if Path(checkpoint).is_dir():
        return False
    snapshot = find_folder(checkpoint, revision)
    return snapshot is not None and has_weights(snapshot) and has_processor(checkpoint, revision)


def has_weights(folder: Path) -> bool:
    """Whether a folder has every file of its safetensors weights."""
    try:
        files = list_weights(json.loads((folder / INDEX).read_bytes()))
    except OSError:
        files = {WEIGHTS}
    except (ValueError, RecursionError):
        return False
    return bool(files) and all((folder / file).exists() for file in files)


def count_tensors(path: Path) -> tuple[int, int] | None:
    """The tensors of a safetensors file and their elements, from its header; None if it is damaged."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER_BYTES:
                return None
            head = json.loads(stream.read(length))
        shapes = [one["shape"] for key, one in head.items() if key != "__metadata__"]
        return len(shapes), sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError):
        return None


def list_weights(index: Any) -> set[str]:
    """The files that an index of weights names. Raises ValueError where it is no index."""
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError("no weight_map")
    return set(names.values())


def has_processor(checkpoint: str, revision: str | None) -> bool:
    """Whether the tokenizer and the image settings of a checkpoint can be read without the network."""
    folder = find_folder(checkpoint, revision)
    settings = ("preprocessor_config.json", "processor_config.json")
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return (
        folder is not None
        and any((folder / name).exists() for name in settings)
        and any((folder / name).exists() for name in tokenizers)
    )


def read_config(folder: Path) -> Mapping[str, Any]:
    """The config.json of a checkpoint that is here."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {folder / 'config.json'} ({error})", hint="download it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not a config", hint="download it again")
    return config


def list_repos() -> list[str]:
    """Every model repository in the hub's cache, complete or not."""
    cache = hub_cache()
    folders = sorted(cache.glob(f"{_PREFIX}*--*")) if cache.is_dir() else []
    return [folder.name.removeprefix(_PREFIX).replace("--", "/", 1) for folder in folders if folder.is_dir()]


def remove_repo(repo: str) -> int:
    """Delete all revisions of a repository from the cache; returns the bytes freed."""
    folder = repo_folder(repo)
    freed = count_folder_bytes(folder)
    try:
        shutil.rmtree(folder)
        shutil.rmtree(hub_cache() / ".locks" / folder.name, ignore_errors=True)
    except OSError as error:
        raise ModelError(f"cannot remove {folder} ({error.strerror})", hint="check who may write there") from error
    return freed


def _snapshot(repo: str, revision: str) -> Path:
    """Where the hub cache would have this revision of a repository."""
    root = repo_folder(repo)
    try:
        commit = (root / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        commit = revision
    return root / "snapshots" / commit
