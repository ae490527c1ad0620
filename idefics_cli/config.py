"""Where settings are, and which checkpoints have a short name.

Finds the packaged `configs/` and the user's own folder, reads YAML with one-line errors, and resolves the name of a
model to a folder or hub id. Knows no templates, no options and nothing of the inside of a checkpoint.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from .errors import ModelError, UsageError, describe_problems
from .files import read_file
from .values import Style

PACKAGE = Path(__file__).resolve().parent
SHAPES = "shapes"
AUTO = "auto"
MAX_YAML_BYTES = 10_000_000
NAMING_HINT = (
    "connect and run `idefics models pull NAME` (`idefics models list` shows them), give --model a folder, "
    "or try `--model shapes`, which is built in and knows plain coloured shapes"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One entry of models.yaml: a hub repository or a local folder, and what to know before loading it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    architecture: str
    repo: str | None = None
    folder: str | None = None
    revision: str | None = None
    style: Style | None = None
    licence: str = ""
    languages: tuple[str, ...] = ()
    notes: str = ""
    is_built_in: bool = False
    """Whether it comes with the program: never to be downloaded, and never chosen unasked."""
    converses: bool = False
    """Whether a base checkpoint was trained on conversations too."""
    scope: str | None = None
    """What images it was made for, if not for all: a name of `models.image_scope`."""
    config: dict[str, Any] | None = None
    """What of its config.json decides its size."""
    parameters: int | None = None
    """How many weights it has, for an architecture that has no formula."""


@dataclass(frozen=True, slots=True)
class Model:
    """What `--model` meant: the name to report, the hub id or folder to load, its entry if it has one."""

    name: str
    checkpoint: str
    entry: Checkpoint | None = None
    dtype: str | None = None
    quantization: str | None = None
    device: str | None = None
    detail: str | None = None
    """How it fits this machine, where that was found out when it was chosen."""
    loaded: tuple[tuple[str, Any], ...] = ()
    """How a running server has it, where it was chosen for that."""


def configs_folder() -> Path:
    """The packaged `configs/`: inside the package in a wheel, beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def exists(path: Path) -> bool:
    """Whether there is such a file. Raises UsageError if that cannot be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {str(path)[:200]}: {reason}", hint="check IDEFICS_CONFIG_DIR") from error
    return True


def expand_user(path: str, name: str = "") -> Path:
    """A path with its `~` resolved; `name` is its origin in messages. Raises UsageError for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        where = f"{name}: " if name else ""
        raise UsageError(f"{where}there is no home folder for {path}", hint="write the full path") from error


NOWHERE = Path(os.devnull) / "idefics"
"""Where nothing is and nothing can be: the folders of a user without a home."""


def _find_folder(kind: Literal["config", "cache", "state"]) -> Path:
    variable = f"IDEFICS_{kind.upper()}_DIR"
    if chosen := os.environ.get(variable):
        return expand_user(chosen, variable)
    import platformdirs  # here, so that `--help` with a chosen folder and every library use stay light

    folders = {
        "config": platformdirs.user_config_dir,
        "cache": platformdirs.user_cache_dir,
        "state": platformdirs.user_state_dir,
    }
    try:
        return Path(folders[kind]("idefics"))
    except RuntimeError:
        return NOWHERE / kind


def user_folder() -> Path:
    """The folder of the user's settings: $IDEFICS_CONFIG_DIR, or the platform's own."""
    return _find_folder("config")


def user_cache() -> Path:
    """The folder of what can be computed again: $IDEFICS_CACHE_DIR, or the platform's own."""
    return _find_folder("cache")


def state_folder() -> Path:
    """The folder of the input history: $IDEFICS_STATE_DIR, or the platform's own."""
    return _find_folder("state")


def place_state(kind: str, name: str) -> Path:
    """A folder of the state folder for what is kept about a place elsewhere. Raises UsageError."""
    folder = state_folder() / kind / hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}", hint="set IDEFICS_STATE_DIR") from error
    return folder


def template_folders() -> tuple[Path, Path]:
    """Where templates are: the user's own folder first, then the packaged one."""
    return user_folder() / "templates", configs_folder() / "templates"


def read_yaml(path: Path) -> Any:
    """Read one YAML document; any error is a UsageError that names the file and the line."""
    from .yaml_reader import BadYAML, parse_yaml

    try:
        return parse_yaml(read_file(path, MAX_YAML_BYTES).decode("utf-8-sig"))
    except OSError as error:
        hint = "check IDEFICS_CONFIG_DIR" if path.is_relative_to(user_folder()) else ""
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error
    except BadYAML as error:
        line = f" line {error.line}" if error.line else ""
        raise UsageError(f"{path}{line} is not valid YAML: {error}") from error


def read_user_options() -> tuple[Path, dict[str, Any]]:
    """The option defaults in the user's config.yaml, keys as written, and the file they are from."""
    path = user_folder() / "config.yaml"
    if not exists(path):
        return path, {}
    content = read_yaml(path)
    if content is None:
        return path, {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path} must hold `option: value` lines")
    return path, content


def load_models() -> dict[str, Checkpoint]:
    """Every named checkpoint, best first. The user's models.yaml comes before the packaged one and wins."""
    own = user_folder() / "models.yaml"
    packaged = load_packaged_models()
    if not exists(own):
        return packaged
    entries = _read_models(own, folders_from=own.parent)
    return entries | {name: entry for name, entry in packaged.items() if name not in entries}


def load_packaged_models() -> dict[str, Checkpoint]:
    """The named checkpoints that come with the program."""
    return _read_models(configs_folder() / "models.yaml", folders_from=PACKAGE)


def list_models() -> dict[str, Model]:
    """Every named checkpoint, best first."""
    return {name: _model_of(name, entry) for name, entry in load_models().items()}


def resolve_model(name: str) -> Model:
    """What `name` means: a short name (which wins over a folder of the same name), a folder or a hub id."""
    models = load_models()
    if name in models:
        return _model_of(name, models[name])
    folder = expand_user(name, "--model")
    if folder.is_dir():
        return Model(name, str(folder))
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name, re.ASCII) and not looks_like_path:
        for entry in models.values():
            if entry.repo == name:
                return Model(name, name, entry)
        return Model(name, name)
    if looks_like_path or folder.exists():
        raise ModelError(f"{name} is not a folder", hint="--model takes a short name, a hub id or a folder")
    near = difflib.get_close_matches(name.lower(), models, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(models)}"
    raise ModelError(f"no model is called {name!r}", hint=f"{hint} (a hub id or a folder works too)")


def hub_cache() -> Path:
    """Where huggingface_hub keeps repositories; found without importing it, which would cost a second."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return expand_user(os.environ[variable], variable)
    if os.environ.get("HF_HOME"):
        return expand_user(os.environ["HF_HOME"], "HF_HOME") / "hub"
    if base := os.environ.get("XDG_CACHE_HOME"):
        return expand_user(base, "XDG_CACHE_HOME") / "huggingface" / "hub"
    try:
        return Path("~/.cache").expanduser() / "huggingface" / "hub"
    except RuntimeError:
        return NOWHERE / "hub"


def _model_of(name: str, entry: Checkpoint) -> Model:
    return Model(name, entry.repo or entry.folder or "", entry)


def _read_models(path: Path, *, folders_from: Path) -> dict[str, Checkpoint]:
    from pydantic import TypeAdapter, ValidationError

    content = read_yaml(path)
    if content is None:
        return {}
    try:
        entries = TypeAdapter(dict[str, Checkpoint]).validate_python(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe_problems(error, subject='the file')}") from error
    for name, entry in entries.items():
        if (entry.repo is None) == (entry.folder is None):
            raise UsageError(f"{path}: {name}: give either repo or folder")
    return {name: _with_absolute_folder(entry, folders_from) for name, entry in entries.items()}


def _with_absolute_folder(entry: Checkpoint, parent: Path) -> Checkpoint:
    if entry.folder is None:
        return entry
    return replace(entry, folder=str(parent / expand_user(entry.folder, "models.yaml")))
