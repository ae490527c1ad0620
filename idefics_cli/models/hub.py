"""Where a checkpoint is read from, and why it cannot be: one line that says what to do.

Knows folders, repositories and the exceptions of huggingface_hub and transformers; builds neither processor nor model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from ..errors import ModelError
from ..values import ModelSpec

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def source_of(spec: ModelSpec) -> dict[str, Any]:
    return {"revision": spec.revision or "main", "trust_remote_code": False}


def check_folder(checkpoint: str) -> None:
    folder = Path(checkpoint).expanduser()
    looks_local = folder.is_absolute() or checkpoint.startswith((".", "~")) or checkpoint.count("/") != 1
    if not folder.exists() and looks_local:
        raise ModelError(f"there is no folder {checkpoint}", hint="check the path given to --model")
    if folder.is_file():
        raise ModelError(f"{checkpoint} is a file", hint="give --model the folder that holds config.json")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{checkpoint} has no config.json", hint="give --model the folder of a checkpoint")
    if (
        folder.is_dir()
        and not any(folder.glob("*.safetensors"))
        and any(any(folder.glob(one)) for one in PICKLES)
    ):
        raise _refuse_pickles(checkpoint)


def _refuse_pickles(checkpoint: str) -> ModelError:
    return ModelError(
        f"{checkpoint} has its weights only as pickles, which can run any code",
        hint="use a revision with .safetensors files, or convert it",
    )


@contextmanager
def translated(spec: ModelSpec) -> Iterator[None]:
    """Exceptions of the hub and of transformers as one line saying what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, AttributeError, SafetensorError) as error:
        raise _explain(spec, error) from error
    except RuntimeError as error:
        from .devices import is_out_of_memory  # here, so that a download needs no torch

        if is_out_of_memory(error) or isinstance(error, NotImplementedError | RecursionError):
            raise
        raise _explain(spec, error) from error


def _explain(spec: ModelSpec, error: Exception) -> ModelError:
    name = spec.checkpoint
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has(GatedRepoError):
        hint = f"ask for access at https://huggingface.co/{name}, then run `hf auth login`"
        return ModelError(f"{name} is gated", hint=hint)
    if has(RepositoryNotFoundError, HFValidationError):
        return ModelError(
            f"there is no checkpoint {name} on the hub", hint="check the name, or `hf auth login` if private"
        )
    if has(RevisionNotFoundError):
        return ModelError(f"{name} has no revision {spec.revision}", hint="check --revision")
    if has(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        return ModelError(
            f"{name} is not downloaded and the hub cannot be reached",
            hint="connect and run without --offline, or give --model a folder",
        )
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, OSError) and "safetensors" in str(error):
        if Path(name).is_dir():
            return ModelError(f"{name} has no weights (*.safetensors)", hint="finish its download")
        return _refuse_pickles(name)
    if "remote code" in str(error) or "trust_remote_code" in str(error):
        return ModelError(f"{name} needs code of its own, which is never run", hint="choose another --model")
    if isinstance(error, SafetensorError | RuntimeError):
        return ModelError(
            f"the weights of {name} are damaged or of another shape ({first_line})", hint="download it again"
        )
    return ModelError(
        f"{name} cannot be loaded ({first_line})", hint="check its files or choose another --model"
    )
