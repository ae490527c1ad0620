"""Checks of a checkpoint's files before anything is built from them: inside the folder, bounded in size, and what they
claim to be.

Only reads, and needs no torch. Values of settings are checked in `settings_check`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..config import hub_cache
from ..errors import ModelError
from ..files import read_file
from .hub.cache import INDEX, count_tensors, list_weights
from .settings_check import check_config, check_sizes, check_tokenizer, check_tokenizer_settings

MAX_BYTES = {".json": 10_000_000, ".jinja": 1_000_000, ".model": 50_000_000, ".txt": 50_000_000}
MAX_TOKENIZER_BYTES = 64_000_000
MAX_OBJECTS, MAX_VALUES, MAX_NAMES, MAX_DEPTH = 1_500_000, 4_000_000, 1_200_000, 32
_LARGE = ("tokenizer.json", "vocab.json", INDEX)
_PLAIN = re.compile(r"[\w.-]+\.safetensors", re.ASCII)

Stamp = tuple[tuple[str, int, int, int], ...]


def check_checkpoint(folder: Path) -> None:
    """Raise ModelError for a folder that no real checkpoint has; once for each state of its files."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        stamp = tuple(
            (one.name, found.st_ino, found.st_size, found.st_mtime_ns) for one in entries if (found := _stat(one))
        )
    except OSError as error:
        raise ModelError(f"cannot read {folder} ({error.strerror})", hint="check who may read it") from error
    _check(folder, stamp)


@lru_cache(maxsize=8)
def _check(folder: Path, stamp: Stamp) -> None:
    for name, *_ in stamp:
        _check_place(folder, folder / name)
    found = {name: _read_json(folder, name) for name, *_ in stamp if name.endswith(".json")}
    if "adapter_config.json" in found:
        raise _refuse(folder, "adapter_config.json is for an adapter, which is not loaded", "merge it into its model")
    config = found.get("config.json", {})
    where = f"{folder}: "
    check_config(config, where + "config.json")
    for name in ("preprocessor_config.json", "processor_config.json", "generation_config.json"):
        check_sizes(found.get(name, {}), where + name, model_type=config.get("model_type"))
    check_tokenizer(found.get("tokenizer.json", {}), where + "tokenizer.json")
    check_tokenizer_settings(found.get("tokenizer_config.json", {}), where + "tokenizer_config.json", folder)
    _check_weights(folder, config, found.get(INDEX), [name for name, *_ in stamp if name.endswith(".safetensors")])


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # a link to nothing, which whoever opens it will name
        return None


def _check_place(folder: Path, path: Path) -> None:
    """A link must not lead outside, except from a snapshot of the hub's cache to its blobs."""
    if not path.is_symlink():
        return
    inside = folder.resolve()
    allowed = [inside, hub_cache().resolve()]
    if inside.parent.name == "snapshots":
        allowed.append(inside.parent.parent / "blobs")
    target = path.resolve()
    if not any(target.is_relative_to(place) for place in allowed):
        raise _refuse(folder, f"{path.name} is a link out of the folder", "put the file itself there")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """A file of settings as an object. Its items are counted before it is parsed: small texts may be many objects."""
    most = MAX_TOKENIZER_BYTES if name in _LARGE else MAX_BYTES[".json"]
    try:
        data = read_file(folder / name, most)
    except OSError as error:
        raise _refuse(folder, f"{name} cannot be read ({error.strerror})") from error
    if data.count(b"{") + data.count(b"[") > MAX_OBJECTS or data.count(b",") > MAX_VALUES:
        raise _refuse(folder, f"{name} has too many values")
    if data.count(b":") > MAX_NAMES:
        raise _refuse(folder, f"{name} has more than {MAX_NAMES:,} words")
    try:
        value = json.loads(data)
        _check_depth(value)
    except RecursionError as error:
        raise _refuse(folder, f"{name} is nested too deeply") from error
    except ValueError as error:
        raise _refuse(folder, f"{name} is not JSON ({str(error)[:200]})") from error
    if not isinstance(value, dict):
        raise _refuse(folder, f"{name} is not an object")
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RecursionError
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]


def _check_weights(folder: Path, config: Mapping[str, Any], index: Any, files: list[str]) -> None:
    """The weights are files of the folder, and about as many as the config says."""
    if index is not None:
        try:
            named = list_weights(index)
        except ValueError as error:
            raise _refuse(folder, f"{INDEX} is not an index ({error})") from error
        if strange := sorted(name for name in named if not _PLAIN.fullmatch(name)):
            raise _refuse(folder, f"{INDEX} names {strange[0][:100]!r}, which is no file of the folder")
    counts = [count_tensors(folder / name) for name in files]
    known = [count for count in counts if count is not None]
    if known and len(known) == len(files):
        tensors, weights = (sum(each) for each in zip(*known, strict=True))
        check_config(config, f"{folder}: config.json", tensors=tensors, weights=weights)


def _refuse(folder: Path, problem: str, hint: str = "download it again, or do not trust it") -> ModelError:
    return ModelError(f"{folder}: {problem}", hint=hint)
