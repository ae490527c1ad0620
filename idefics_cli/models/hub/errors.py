"""Where a checkpoint is read from, and errors of reading it as one line that says what to do.

Knows folders, repositories and the exceptions of huggingface_hub and transformers; builds neither processor nor model.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError

from ...config import hub_cache
from ...errors import IdeficsError, ModelError, is_of_item
from ...values import ModelSpec
from ..families import FAMILIES

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
COMMIT, ETAG = re.compile(r"[0-9a-f]{40}"), re.compile(r"[\w-]{1,128}", re.ASCII)
"""What the hub calls a commit and a file's content, as the cache has them in its paths."""


def check_folder(checkpoint: str) -> None:
    folder = Path(checkpoint)
    looks_local = folder.is_absolute() or checkpoint.startswith(".") or checkpoint.count("/") != 1
    if not folder.exists() and looks_local:
        raise ModelError(f"there is no folder {checkpoint}", hint="check the path given to --model")
    check_whole(checkpoint, os.listdir(folder) if folder.is_dir() else ())
    if folder.is_file():
        raise ModelError(f"{checkpoint} is a file", hint="give --model the folder that holds config.json")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{checkpoint} has no config.json", hint="give --model the folder of a checkpoint")
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and any(any(folder.glob(one)) for one in PICKLES):
        raise refuse_pickles(checkpoint)


def check_whole(name: str, files: Container[str]) -> None:
    """Refuse an adapter without its base: the base alone would answer."""
    if "adapter_config.json" in files:
        raise ModelError(
            f"{name} is an adapter (adapter_config.json), which cannot be loaded",
            hint="merge it into its base model first (peft: merge_and_unload, save_pretrained)",
        )


def refuse_pickles(checkpoint: str) -> ModelError:
    return ModelError(
        f"{checkpoint} has its weights only as pickles, which can run any code",
        hint="use a revision with .safetensors files, or convert it",
    )


@contextmanager
def translated(spec: ModelSpec) -> Iterator[None]:
    """Exceptions of the hub and of transformers as one line saying what to do."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, IdeficsError) or not is_of_item(error) or _is_out_of_memory(error):
            raise
        raise _explain(spec, error) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError | MemoryError):
        return False
    from ..devices import is_out_of_memory  # here, so that a download needs no torch

    return is_out_of_memory(error)


def _explain(spec: ModelSpec, error: BaseException) -> ModelError:
    name = spec.checkpoint
    causes: list[BaseException] = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if (told := next((cause for cause in causes if isinstance(cause, ModelError)), None)) is not None:
        return told
    if "No usable temporary directory" in str(error):
        return ModelError("no folder for temporary files can be written", hint="set TMPDIR to one that can")
    if has(HFValidationError):
        return ModelError(f"{name} is not a valid name of a checkpoint on the hub", hint="check the name")
    if (failure := _explain_cache(name, causes)) is not None:
        return failure
    if has(LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, httpx2.TransportError):
        return ModelError(
            f"{name} is not downloaded and the hub cannot be reached",
            hint=f"connect and run `idefics models pull {name}` (without --offline), give --model a folder, "
            "or try `--model shapes`, which is built in",
        )
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
    if isinstance(error, OSError) and "safetensors" in str(error):
        if Path(name).is_dir():
            return ModelError(f"{name} has no weights (*.safetensors)", hint="finish its download")
        return refuse_pickles(name)
    if "remote code" in str(error) or "trust_remote_code" in str(error):
        return ModelError(f"{name} needs code of its own, which is never run", hint="choose another --model")
    if "does not recognize this architecture" in str(error):
        return ModelError(
            f"{name} is of an architecture that cannot be run ({first_line})",
            hint=f"known: {', '.join(FAMILIES)}, and others whose processor has a chat template",
        )
    if isinstance(error, SafetensorError | RuntimeError):
        return ModelError(
            f"the weights of {name} are damaged or of another shape ({first_line})", hint="download it again"
        )
    return ModelError(f"{name} cannot be loaded ({first_line})", hint="check its files or choose another --model")


def _explain_cache(name: str, causes: list[BaseException]) -> ModelError | None:
    """Why the disk refused a download, if the disk was the cause."""
    if Path(name).is_dir():
        return None
    for cause in causes:
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return ModelError(
                f"the disk is full: {hub_cache()} has no room for {name}",
                hint="free some space, or set HF_HOME to a folder on another disk",
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            return ModelError(
                f"cannot write to the cache {hub_cache()} ({os.strerror(number)})",
                hint="make it writable, or set HF_HOME to another folder",
            )
    return None
