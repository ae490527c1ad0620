"""Downloads a checkpoint into the hub's cache: only the files it needs, after a check of the disk, continuing where it
broke off.

huggingface_hub starts an interrupted file again and trusts what the server says; so files are fetched here, into the
places where it looks for them. Pickles and code are never downloaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BufferedRandom
from pathlib import Path
from typing import Any

import httpx2
from filelock import FileLock

from ...config import hub_cache
from ...errors import ModelError
from ...figures import format_bytes
from ...files import write_file
from ...values import ModelSpec
from ..families import FAMILIES
from .cache import INDEX, WEIGHTS, has_processor, is_downloaded, list_weights, repo_folder
from .client import RETRY, fetch_file, list_repo
from .errors import COMMIT, PICKLES, check_whole, refuse_pickles, translated

OnBytes = Callable[[int], None]
"""Told how many more bytes are there."""
_SETTINGS = re.compile(r"[\w.-]+\.(?:json|jinja)|tokenizer\.model|spiece\.model|merges\.txt|vocab\.txt")
_LEFT_OUT = re.compile(r".*\.bin\.index\.json|(?:trainer|training)_.*")
_SAFE = re.compile(r"[\w.-]+\.safetensors")
SETTINGS_BYTES = 200_000_000
"""More is no config and no tokenizer."""
PROGRESS_BYTES = 1_000_000
"""What must have come of a file for its connection to be tried again and again."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A download: its commit, its files, and how many bytes of them are missing."""

    repo: str
    revision: str
    commit: str
    files: tuple[File, ...]
    missing_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def plan_download(repo: str, revision: str | None) -> Plan:
    """Ask the hub and choose files. Raises ModelError for a checkpoint that could not be used."""
    check_revision(revision)
    spec = ModelSpec(repo, revision=revision)
    with translated(spec):
        listing = list_repo(repo, revision or "main")
        sizes, commit = {one.rfilename: one.size for one in listing.siblings}, listing.sha
        _check_architecture(repo, commit, sizes)
        files = tuple(File(name, sizes[name]) for name in _choose(repo, commit, sizes))
    missing = sum(file.size - _count_here(repo, commit, file) for file in files)
    return Plan(repo, revision or "main", commit, files, missing)


def check_space(plan: Plan) -> None:
    """Refuse a download that the disk cannot hold."""
    place = next(one for one in (hub_cache(), *hub_cache().parents) if one.exists())
    free = shutil.disk_usage(place).free
    if plan.missing_bytes > free:
        raise ModelError(
            f"{plan.repo} needs {format_bytes(plan.missing_bytes)} more, and the disk of {hub_cache()} has "
            f"{format_bytes(free)} free",
            hint="free some space, or set HF_HOME to a folder on another disk",
        )


def download(plan: Plan, on_bytes: OnBytes) -> Path:
    """Fetch what is missing, settings first. Returns the snapshot; the revision points to it once it is complete."""
    with translated(ModelSpec(plan.repo, revision=plan.revision)):
        for file in sorted(plan.files, key=lambda file: file.size):
            _fetch(plan.repo, plan.commit, file, on_bytes)
        _set_revision(plan)
    return repo_folder(plan.repo) / "snapshots" / plan.commit


def source_of(spec: ModelSpec, *, with_weights: bool = False) -> dict[str, Any]:
    """The source options of `from_pretrained`. Missing files are downloaded here, so it needs no network."""
    checkpoint, revision = spec.checkpoint, spec.revision
    is_here = is_downloaded(checkpoint, revision) if with_weights else has_processor(checkpoint, revision)
    if not Path(checkpoint).is_dir() and not is_here:
        if with_weights:
            download(plan_download(checkpoint, revision), _ignore)
        else:
            revision = _fetch_settings(checkpoint, revision)
    return {"revision": revision or "main", "trust_remote_code": False, "local_files_only": True}


@cache
def _fetch_settings(repo: str, revision: str | None) -> str:
    """Fetch all of a checkpoint but its weights. Returns the commit under which it is here."""
    plan = plan_download(repo, revision)
    for file in plan.files:
        if not file.name.endswith(".safetensors"):
            _fetch(plan.repo, plan.commit, file, _ignore)
    return plan.commit


def fetch_config(repo: str, revision: str | None) -> dict[str, Any]:
    """The config.json of a checkpoint on the hub, without any other file."""
    check_revision(revision)
    with translated(ModelSpec(repo, revision=revision)):
        listing = list_repo(repo, revision or "main")
        sizes = {one.rfilename: one.size for one in listing.siblings}
        _check_config(repo, sizes)
        return _fetch_json(repo, "config.json", listing.sha, sizes)


def fetch_parameters(repo: str, revision: str | None) -> int | None:
    """How many weights the hub counts in the safetensors of a checkpoint, None if it does not say."""
    check_revision(revision)
    with translated(ModelSpec(repo, revision=revision)):
        return list_repo(repo, revision or "main").parameters


def check_revision(revision: str | None) -> None:
    """Refuse what cannot be the name of a branch, tag or commit: it becomes a path below `refs`."""
    if revision is not None and not all(re.fullmatch(r"[\w-][\w.-]*", part) for part in revision.split("/")):
        raise ModelError(f"{revision!r} is not a revision", hint="`--revision main` is the latest one")


def _fetch_json(repo: str, name: str, commit: str, sizes: dict[str, int]) -> dict[str, Any]:
    _fetch(repo, commit, File(name, sizes[name]), _ignore)
    content = json.loads(_pointer(repo, commit, name).read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"its {name} is not an object")
    return content


def _check_config(repo: str, sizes: dict[str, int]) -> None:
    check_whole(repo, sizes)
    if "config.json" not in sizes:
        raise ModelError(f"{repo} has no config.json", hint="name the repository of a checkpoint")


def _check_architecture(repo: str, commit: str, sizes: dict[str, int]) -> None:
    _check_config(repo, sizes)
    architecture = str(_fetch_json(repo, "config.json", commit, sizes).get("model_type"))
    takes_images = {"preprocessor_config.json", "processor_config.json"} & sizes.keys()
    if architecture not in FAMILIES and not (takes_images and _has_chat_template(repo, commit, sizes)):
        raise ModelError(
            f"{repo} is of an architecture that cannot be run ({architecture})",
            hint=f"known: {', '.join(FAMILIES)}, and others whose processor has a chat template",
        )


def _has_chat_template(repo: str, commit: str, sizes: dict[str, int]) -> bool:
    tokenizer = "tokenizer_config.json"
    return any(name.startswith("chat_template") for name in sizes) or (
        tokenizer in sizes and "chat_template" in _fetch_json(repo, tokenizer, commit, sizes)
    )


def _choose(repo: str, commit: str, sizes: dict[str, int]) -> list[str]:
    """The files that loading reads: settings, tokenizer, and the safetensors that the index names."""
    settings = [name for name in sizes if _SETTINGS.fullmatch(name) and not _LEFT_OUT.fullmatch(name)]
    indexed = list_weights(_fetch_json(repo, INDEX, commit, sizes)) if INDEX in sizes else {WEIGHTS}
    weights = indexed & {name for name in sizes if _SAFE.fullmatch(name)}
    if not weights and any(Path(name).match(pattern) for name in sizes for pattern in PICKLES):
        raise refuse_pickles(repo)
    if not weights or weights != indexed:
        raise ModelError(f"{repo} lacks weights (*.safetensors)", hint="choose another checkpoint")
    return sorted({*settings, *weights})


def _count_here(repo: str, commit: str, file: File) -> int:
    """Bytes of a file that are here already."""
    if _pointer(repo, commit, file.name).exists():
        return file.size
    partial = _partial(repo, commit, file.name)
    return min(file.size, partial.stat().st_size) if partial.exists() else 0


def _fetch(repo: str, commit: str, file: File, on_bytes: OnBytes) -> None:
    """Fetch a file to its place in the cache, from where the last attempt broke off, and check it."""
    pointer = _pointer(repo, commit, file.name)
    if pointer.exists():
        return
    if not file.name.endswith(".safetensors") and file.size > SETTINGS_BYTES:
        raise ModelError(
            f"{file.name} of {repo} has {file.size:,} bytes, more than settings have",
            hint="choose another model",
        )
    root = repo_folder(repo)
    partial, lock = (
        _partial(repo, commit, file.name),
        hub_cache() / ".locks" / root.name / f"{file.name}.lock",
    )
    for folder in (partial.parent, lock.parent, pointer.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(partial, flags, 0o666), "r+b") as stream:
            blob = root / "blobs" / _fill(repo, commit, file, stream, root / "blobs", on_bytes)
            if not blob.exists():
                if not _is_whole(stream, blob.name):
                    partial.unlink()
                    raise ModelError(f"{file.name} of {repo} arrived damaged", hint="run the same command again")
                os.fsync(stream.fileno())
                os.replace(partial, blob)
        partial.unlink(missing_ok=True)
        _point(pointer, blob)


def _fill(repo: str, commit: str, file: File, stream: BufferedRandom, blobs: Path, on_bytes: OnBytes) -> str:
    """Fetch the missing bytes of a file, unless its content is here under another name. Returns its ETag."""
    tag = ""

    def begin() -> int:
        """Where to continue. One byte is asked for again, as a response without content would not have the ETag."""
        return max(0, min(stream.seek(0, os.SEEK_END), file.size - 1))

    def on_open(found: str, first: int) -> bool:
        nonlocal tag
        tag = found
        here = stream.seek(0, os.SEEK_END)
        if (blobs / tag).exists():
            on_bytes(file.size - here)
            return False
        on_bytes(first - here)
        stream.seek(first)
        stream.truncate()
        return True

    def on_piece(piece: bytes) -> None:
        stream.write(piece)
        on_bytes(len(piece))

    async def ask() -> None:
        await fetch_file(repo, commit, file.name, file.size, begin=begin(), on_open=on_open, on_piece=on_piece)

    while True:
        before = begin()
        try:
            asyncio.run(RETRY.ask(ask))
        except httpx2.TransportError:
            stream.flush()
            if begin() - before < PROGRESS_BYTES:
                raise
        else:
            stream.flush()
            return tag


def _is_whole(stream: BufferedRandom, tag: str) -> bool:
    """Whether content matches its ETag, if that is a digest: of the bytes, or as git computes it."""
    if _SHA256.fullmatch(tag):
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest() == tag
    if COMMIT.fullmatch(tag):
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        content = stream.read(SETTINGS_BYTES)
        found = hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest()
        return size > SETTINGS_BYTES or found == tag
    return True


def _point(pointer: Path, blob: Path) -> None:
    """Add a blob to a snapshot under its name: as a link, or as a copy where links are not possible."""
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        shutil.copyfile(blob, pointer)


def _pointer(repo: str, commit: str, name: str) -> Path:
    return repo_folder(repo) / "snapshots" / commit / name


def _partial(repo: str, commit: str, name: str) -> Path:
    return repo_folder(repo) / "blobs" / f"{commit}-{name}.incomplete"


def _set_revision(plan: Plan) -> None:
    """Write the commit of the branch or tag; done last."""
    if plan.revision == plan.commit:
        return
    path = repo_folder(plan.repo) / "refs" / plan.revision
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, plan.commit.encode())


def _ignore(count: int) -> None:
    """No progress bar: settings are too small."""
