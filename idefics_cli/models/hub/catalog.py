"""Every checkpoint with a short name, and others in the hub's cache of known architectures, with their state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...config import Checkpoint, Model, list_models
from ...errors import ModelError
from ...files import count_folder_bytes
from ..dimensions import Dimensions
from ..families import FAMILIES, measure
from .cache import (
    INDEX,
    WEIGHTS,
    count_tensors,
    find_folder,
    find_revision,
    has_weights,
    is_downloaded,
    list_repos,
    list_weights,
    read_config,
    repo_folder,
)


@dataclass(frozen=True, slots=True)
class Listing:
    """One checkpoint: its name, its source, its dimensions if known, and what is on disk."""

    model: Model
    revision: str | None
    dimensions: Dimensions | None
    disk_bytes: int
    is_downloaded: bool

    @property
    def entry(self) -> Checkpoint | None:
        return self.model.entry


def list_catalog() -> list[Listing]:
    """Checkpoints with a short name, best first, then others of the hub's cache."""
    named = list_models().values()
    known = {model.checkpoint for model in named}
    others = [repo for repo in list_repos() if repo not in known and _is_ours(repo)]
    return [describe(model) for model in (*named, *(Model(repo, repo) for repo in others))]


def describe(model: Model, revision: str | None = None) -> Listing:
    """What is known of a model without the network. A folder counts as downloaded if its weights are there."""
    revision = revision or find_revision(model)
    folder = find_folder(model.checkpoint, revision)
    own_folder = Path(model.checkpoint)
    is_folder = own_folder.is_dir()
    return Listing(
        model=model,
        revision=revision,
        dimensions=_find_dimensions(model, folder),
        disk_bytes=count_folder_bytes(own_folder if is_folder else repo_folder(model.checkpoint)),
        is_downloaded=folder is not None and has_weights(folder)
        if is_folder
        else is_downloaded(model.checkpoint, revision),
    )


def count_parameters(folder: Path) -> int | None:
    """The number of weights of a checkpoint from the headers of its files; None if one cannot be read."""
    try:
        index = folder / INDEX
        files = list_weights(json.loads(index.read_bytes())) if index.exists() else {WEIGHTS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    counts = [count_tensors(folder / file) for file in files]
    return None if None in counts else sum(weights for _, weights in filter(None, counts))


def _find_dimensions(model: Model, folder: Path | None) -> Dimensions | None:
    """From its own config.json and weights if they are here, else from its entry; None if neither has them."""
    entry = model.entry
    config = read_config(folder) if folder is not None else entry.config if entry else None
    if config is None:
        return None
    parameters = count_parameters(folder) if folder is not None else None
    try:
        return measure(config, model.name, parameters or (entry.parameters if entry else None))
    except ModelError:
        return None


def _is_ours(repo: str) -> bool:
    folder = find_folder(repo)
    try:
        config = read_config(folder) if folder is not None else {}
    except ModelError:
        return False
    return config.get("model_type") in FAMILIES or "vision_config" in config
