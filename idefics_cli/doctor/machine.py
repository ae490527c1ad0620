"""The machine and the installation: versions, devices, disk, caches, settings, token, network.

Nothing here loads a model; torch is imported to list devices. The value of a token is never shown.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import httpx2
from packaging.requirements import Requirement

from .. import __version__
from ..config import SHAPES, expand_user, hub_cache, load_models, template_folders, user_cache, user_folder
from ..errors import IdeficsError, ModelError
from ..figures import format_bytes
from ..files import count_folder_bytes
from ..models.libraries import import_libraries
from ..prompts.templates import load_template, template_names

State = Literal["ok", "hint", "broken", "skipped"]
DISTRIBUTION = "idefics-cli"
SHOWN = ("torch", "transformers", "bitsandbytes", "accelerate")
HUB = "https://huggingface.co"
TIMEOUT_SECONDS = 3.0
ROOM_BYTES = 20e9
"""An 8B checkpoint in bfloat16 takes 17 GB on disk."""
FEW_BYTES = 2e9


@dataclass(frozen=True, slots=True)
class Check:
    """`text` is one line for people, `hint` the next step, `values` are for programs."""

    name: str
    state: State
    text: str
    hint: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


def check_machine(*, is_offline: bool) -> Iterator[Check]:
    """Run one check after the other."""
    yield check_versions()
    devices = check_devices()
    yield devices
    if devices.state != "broken":
        yield check_memory()
    yield from (
        check_caches(),
        check_disk(),
        check_settings(),
        check_token(),
        check_network(is_offline=is_offline),
    )


def check_versions() -> Check:
    """Whether all required packages are installed, and new enough."""
    try:
        wanted = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        wanted = [Requirement(name) for name in SHOWN]
    found: dict[str, str] = {}
    problems = []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            found[one.name] = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(found[one.name], prereleases=True):
            problems.append(f"{one.name} {found[one.name]} is not {one.specifier}")
    python = ".".join(map(str, sys.version_info[:3]))
    values = {"idefics": __version__, "python": python, **found}
    if problems:
        return Check("versions", "broken", ", ".join(problems), f"pip install --upgrade {DISTRIBUTION}", values)
    named = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
    return Check("versions", "ok", f"idefics {__version__}, python {python}, {named}", values=values)


def check_devices() -> Check:
    """The devices, the default one first."""
    try:
        import_libraries()
    except ModelError as error:
        return Check("devices", "broken", str(error))
    from ..models.devices import has_fast_bfloat16, list_devices

    devices = list_devices()
    values = {
        "devices": [
            {"name": one.name, "kind": one.kind, "free_bytes": one.free_bytes, "total_bytes": one.total_bytes}
            for one in devices
        ],
        "has_fast_bfloat16": has_fast_bfloat16(),
    }
    text = ", ".join(f"{one.kind} ({one.name}, {format_bytes(one.total_bytes)})" for one in devices)
    if devices[0].kind != "cpu":
        return Check("devices", "ok", text, values=values)
    if shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists():
        hint = "torch does not find the NVIDIA card:  install torch with CUDA (pytorch.org) and a driver"
        return Check("devices", "hint", text, hint, values)
    return Check("devices", "ok", text, "a GPU would be many times faster", values)


def check_memory() -> Check:
    """The free memory on the default device."""
    from ..models.devices import list_devices

    first = list_devices()[0]
    text = f"{format_bytes(first.free_bytes)} free of {format_bytes(first.total_bytes)} on {first.kind}"
    hint = "close other programs, or use smolvlm-256m or --4bit" if first.free_bytes < FEW_BYTES else ""
    values = {"kind": first.kind, "free_bytes": first.free_bytes, "total_bytes": first.total_bytes}
    return Check("memory", "hint" if hint else "ok", text, hint, values)


def check_disk() -> Check:
    """Free space for checkpoints, and whether their folder is writable."""
    folder = _find_parent(hub_cache())
    free = shutil.disk_usage(folder).free
    text = f"{format_bytes(free)} free for checkpoints in {hub_cache()}"
    values = {"folder": str(hub_cache()), "free_bytes": free}
    if not os.access(folder, os.W_OK) or not folder.is_dir():
        return Check("disk", "hint", f"{folder} cannot be written", "set HF_HOME to a folder of yours", values)
    if free < ROOM_BYTES:
        return Check("disk", "hint", text, "an 8B checkpoint takes 17 GB; HF_HOME may name another disk", values)
    return Check("disk", "ok", text, values=values)


def check_caches() -> Check:
    """The disk space of downloads and quantized weights, and which checkpoints are downloaded."""
    from ..models.hub.catalog import list_catalog
    from ..models.quantization.entries import list_entries

    downloaded = count_folder_bytes(hub_cache())
    kept = list(list_entries())
    size = sum(one for _, one in kept)
    here = [one.model.name for one in list_catalog() if one.is_downloaded and not (one.entry and one.entry.is_built_in)]
    text = (
        f"{format_bytes(downloaded)} downloaded, {len(kept)} quantized checkpoints of {format_bytes(size)} "
        f"in {user_cache()}"
    )
    values = {
        "downloaded_bytes": downloaded,
        "quantized": [{"folder": str(folder), "bytes": one} for folder, one in kept],
        "checkpoints": here,
    }
    hint = "" if here else f"no checkpoint is downloaded yet; `--model {SHAPES}` is built in"
    return Check("caches", "ok" if here else "hint", text, hint, values)


def check_settings() -> Check:
    """Whether the user's models and templates can be read."""
    try:
        models = load_models()
        names = template_names()
        for name in names:
            load_template(name)
    except IdeficsError as error:
        return Check("settings", "broken", str(error), "correct or remove that file")
    own = sum(1 for _ in template_folders()[0].glob("*.yaml"))
    text = f"{len(models)} models and {len(names)} templates, {own} of them yours, in {user_folder()}"
    return Check("settings", "ok", text, values={"models": len(models), "templates": len(names), "own": own})


def check_token() -> Check:
    """Whether there is a token for the hub. Its value is never shown."""
    path = expand_user(os.environ.get("HF_TOKEN_PATH") or str(hub_cache().parent / "token"), "HF_TOKEN_PATH")
    is_there = any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")) or path.is_file()
    text = "there is a token for the hub" if is_there else "no token for the hub; gated checkpoints need one"
    return Check("token", "ok", text, "" if is_there else "`hf auth login`", {"is_there": is_there})


def check_network(*, is_offline: bool) -> Check:
    """Whether the hub can be reached: one short request."""
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    values: dict[str, Any] = {"endpoint": endpoint}
    if is_offline:
        return Check("network", "skipped", "not asked, as --offline says", values=values)
    try:
        answer = httpx2.head(endpoint, timeout=TIMEOUT_SECONDS, follow_redirects=True)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        hint = "what is downloaded works without it; HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy"
        return Check("network", "hint", f"{endpoint} cannot be reached ({reason})", hint, values)
    values["status"] = answer.status_code
    if answer.status_code >= 500:
        return Check("network", "hint", f"{endpoint} answers {answer.status_code}", "try again later", values)
    return Check("network", "ok", f"{endpoint} answers", values=values)


def _find_parent(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
