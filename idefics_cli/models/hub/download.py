"""Fetching a checkpoint into the hub's cache: what is needed of it, room for it first, and going on after a break.

huggingface_hub begins a broken file anew; weights of gigabytes are fetched here in its stead, into the place where it
looks for them, and it does the rest. Pickles and code are left on the hub.
"""

# huggingface_hub is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # re-exported

from ...config import hub_cache
from ...errors import ModelError
from ...values import ModelSpec
from ..families import FAMILIES
from ..memory.sizes import format_bytes
from .cache import INDEX, WEIGHTS, list_weights, repo_folder
from .errors import COMMIT, ETAG, PICKLES, refuse_pickles, translated

OnBytes = Callable[[int], None]
"""Told how many more bytes are there."""
_SETTINGS = re.compile(r"[\w.-]+\.(?:json|jinja)|tokenizer\.model|spiece\.model|merges\.txt|vocab\.txt")
_LEFT_OUT = re.compile(r".*\.bin\.index\.json|(?:trainer|training)_.*")
_SAFE = re.compile(r"[\w.-]+\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a download comes to: the commit it is of, its files, and the bytes of them that are not here."""

    repo: str
    revision: str
    commit: str
    files: tuple[File, ...]
    missing_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def plan_download(repo: str, revision: str | None) -> Plan:
    """Ask the hub what there is and choose. Raises ModelError for what could not be used once it is here."""
    check_revision(revision)
    spec = ModelSpec(repo, revision=revision)
    huggingface_hub.logging.set_verbosity_error()
    with translated(spec):
        info = huggingface_hub.HfApi().model_info(repo, revision=revision or "main", files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        commit = _read_commit(info.sha)
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
    """Fetch what is missing, the settings first. Returns the snapshot; only a whole one is what the revision means."""
    spec = ModelSpec(plan.repo, revision=plan.revision)
    with translated(spec):
        for file in sorted(plan.files, key=lambda file: file.size):
            if not _pointer(plan.repo, plan.commit, file.name).exists():
                if file.name.endswith(".safetensors"):
                    _fetch_weights(plan, file, on_bytes)
                hf_hub_download(plan.repo, file.name, revision=plan.commit, tqdm_class=_meter(on_bytes))
        _set_revision(plan)
    return repo_folder(plan.repo) / "snapshots" / plan.commit


def fetch_config(repo: str, revision: str | None) -> dict[str, Any]:
    """The config.json of a checkpoint on the hub, and nothing else of it."""
    check_revision(revision)
    with translated(ModelSpec(repo, revision=revision)):
        # This fails at once where there is no network; the download of a file would try for half a minute.
        commit = huggingface_hub.HfApi().model_info(repo, revision=revision or "main").sha
        return _fetch_json(repo, "config.json", _read_commit(commit))


def check_revision(revision: str | None) -> None:
    """Refuse what is no name of a branch, tag or commit: it becomes a path below `refs`."""
    if revision is not None and not all(re.fullmatch(r"[\w-][\w.-]*", part) for part in revision.split("/")):
        raise ModelError(f"{revision!r} is not a revision", hint="`--revision main` is the latest one")


def _read_commit(answer: str | None) -> str:
    """A commit as the hub named it, which becomes a part of paths."""
    if answer is None or not COMMIT.fullmatch(answer):
        raise ValueError("the hub names no commit")
    return answer


def _fetch_json(repo: str, name: str, commit: str) -> dict[str, Any]:
    silent = _meter(lambda count: None)
    path = Path(hf_hub_download(repo, name, revision=commit, tqdm_class=silent))
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"its {name} is not an object")
    return content


def _check_architecture(repo: str, commit: str, sizes: dict[str, int]) -> None:
    if "config.json" not in sizes:
        raise ModelError(f"{repo} has no config.json", hint="name the repository of a checkpoint")
    architecture = str(_fetch_json(repo, "config.json", commit).get("model_type"))
    takes_images = {"preprocessor_config.json", "processor_config.json"} & sizes.keys()
    if architecture not in FAMILIES and not (takes_images and _has_chat_template(repo, commit, sizes)):
        raise ModelError(
            f"{repo} is of an architecture that cannot be run ({architecture})",
            hint=f"known: {', '.join(FAMILIES)}, and others whose processor has a chat template",
        )


def _has_chat_template(repo: str, commit: str, sizes: dict[str, int]) -> bool:
    tokenizer = "tokenizer_config.json"
    return any(name.startswith("chat_template") for name in sizes) or (
        tokenizer in sizes and "chat_template" in _fetch_json(repo, tokenizer, commit)
    )


def _choose(repo: str, commit: str, sizes: dict[str, int]) -> list[str]:
    """The files that loading reads: settings, tokenizer, and the safetensors that the index names."""
    settings = [name for name in sizes if _SETTINGS.fullmatch(name) and not _LEFT_OUT.fullmatch(name)]
    indexed = list_weights(_fetch_json(repo, INDEX, commit)) if INDEX in sizes else {WEIGHTS}
    weights = indexed & {name for name in sizes if _SAFE.fullmatch(name)}
    if not weights and any(Path(name).match(pattern) for name in sizes for pattern in PICKLES):
        raise refuse_pickles(repo)
    if not weights or weights != indexed:
        raise ModelError(f"{repo} lacks weights (*.safetensors)", hint="choose another checkpoint")
    return sorted({*settings, *weights})


def _count_here(repo: str, commit: str, file: File) -> int:
    """Bytes of a file that need not be fetched."""
    if _pointer(repo, commit, file.name).exists():
        return file.size
    partial = _partial(repo, commit, file.name)
    return min(file.size, partial.stat().st_size) if partial.exists() else 0


def _fetch_weights(plan: Plan, file: File, on_bytes: OnBytes) -> None:
    """Fetch a file to where the cache has its content, from where the last try broke off."""
    url = hf_hub_url(plan.repo, file.name, revision=plan.commit)
    etag = get_hf_file_metadata(url).etag
    if etag is None or not ETAG.fullmatch(etag):
        return  # hf_hub_download says what is wrong with such an answer
    root = repo_folder(plan.repo)
    blob, lock = root / "blobs" / etag, hub_cache() / ".locks" / root.name / f"{etag}.lock"
    partial = _partial(plan.repo, plan.commit, file.name)
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            on_bytes(file.size - _count_here(plan.repo, plan.commit, file))
            return
        with partial.open("ab") as stream:
            http_get(
                url,
                stream,
                resume_size=stream.tell(),
                headers=build_hf_headers(),
                expected_size=file.size,
                tqdm_class=_meter(on_bytes),
            )
        if _SHA256.fullmatch(etag) and _digest(partial) != etag:
            partial.unlink()
            raise ModelError(f"{file.name} of {plan.repo} arrived damaged", hint="run the same command again")
        os.replace(partial, blob)


def _pointer(repo: str, commit: str, name: str) -> Path:
    return repo_folder(repo) / "snapshots" / commit / name


def _partial(repo: str, commit: str, name: str) -> Path:
    return repo_folder(repo) / "blobs" / f"{commit}-{name}.incomplete"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _set_revision(plan: Plan) -> None:
    """Note which commit the branch or tag meant, as the last thing."""
    if plan.revision == plan.commit:
        return
    path = repo_folder(plan.repo) / "refs" / plan.revision
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fresh.write_text(plan.commit)
    os.replace(fresh, path)


def _meter(on_bytes: OnBytes) -> Any:
    """What huggingface_hub takes for a progress bar, and tells of each piece."""

    class Meter:
        def __init__(self, *_: Any, **__: Any) -> None:
            """Its description and total are known already."""

        def __enter__(self) -> Meter:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing was opened."""

        def update(self, count: int) -> None:
            on_bytes(count)

    return Meter
