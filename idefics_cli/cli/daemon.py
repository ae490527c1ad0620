"""Finds a server that has the model loaded, or starts one in the background.

Nothing here imports torch. If anything is wrong with a server, the model is loaded in this process instead.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from ..backends.daemon.backend import ResidentBackend, Search, find_server
from ..backends.daemon.runtime_dir import LOG, is_locked, make_folder
from ..child_processes import write_command
from ..config import Model
from ..errors import UsageError
from ..values import ModelSpec
from .declare import Fact, write_arguments
from .settings import Settings

LOOK_SECONDS = 0.05
MAX_LOG_BYTES = 1_000_000
_NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|TMPDIR|SYSTEMROOT|VIRTUAL_ENV|LD_LIBRARY_PATH|LD_PRELOAD"
    r"|SSL_CERT_(?:FILE|DIR)|(?i:(?:https?|all|no)_proxy)"
    r"|(?:LC|XDG|IDEFICS|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|PYTHON|TORCH|PYTORCH|TRITON|BNB|CUDA|NVIDIA|HIP|ROCR"
    r"|HSA|ROCM|ONEAPI|ZE|OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR)\w*"
)
_SECRET = re.compile(r"\w*_(?:TOKEN|KEY|SECRET|PASSWORD)|IDEFICS_(?:PORT|HOST)")
_PATHS = {
    *("IDEFICS_CONFIG_DIR", "IDEFICS_CACHE_DIR", "IDEFICS_STATE_DIR", "IDEFICS_RUNTIME_DIR"),
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN_PATH", "TMPDIR", "PYTHONPATH"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
}
_started: list[subprocess.Popen[bytes]] = []


def open_warm(spec: ModelSpec, model: Model, settings: Settings, *, may_start: bool = True) -> ResidentBackend | None:
    """A server that has the model loaded, started first if --keep-alive asks for it; None if there is none."""
    options, talk = settings.model, settings.talk
    if options.no_server:
        return None
    seconds = settings.keep_alive_seconds
    search = find_server(spec, keep_alive_seconds=seconds)
    if search.backend is None and not search.is_alive and seconds and may_start:
        if search.reason:
            talk.note(f"{search.reason}; starting another")
        talk.note(f"loading {model.name} in the background, to keep it for {options.keep_alive}")
        given = settings.list_given(Fact.HANDED_ON) | {"--keep-alive": options.keep_alive}
        search = start_server(write_server(model, spec, given), spec)
    if search.backend is None:
        if search.reason:
            talk.note(f"{search.reason}; loading the model here")
        return None
    talk.detail(f"answered by the server, process {search.backend.pid}")
    if settings.decoding.cache_memory is not None and not _started:
        talk.note("--cache-memory changes nothing: the running server has its own")
    search.backend.batch_size = settings.decoding.batch_size
    return search.backend


def start_server(
    arguments: list[str],
    spec: ModelSpec,
    environment: Mapping[str, str] | None = None,
    *,
    may_join: bool = True,
) -> Search:
    """Start `idefics serve` in the background and wait until it has loaded its model, or `may_join` a faster one.

    Raises UsageError if another one is running that may not be joined.
    """
    try:
        folder = make_folder()
    except UsageError as error:
        return Search(reason=str(error))
    command = write_command("idefics_cli.cli.app", "main", "serve", *arguments)
    process = _start(command, folder / LOG, {**_list_environment(), **(environment or {})})
    _started.append(process)
    while True:
        search = find_server(spec)
        is_other = search.is_alive or (search.backend is not None and search.backend.pid != process.pid)
        if not may_join and (is_other or (process.poll() is not None and is_locked(folder))):
            if search.backend is not None:
                search.backend.close()
            process.wait()
            raise UsageError(
                "another server is running already, or starting", hint="end it with `idefics serve --stop`"
            )
        if search.backend is not None or search.is_alive:
            return search
        if process.poll() is not None and not is_locked(folder):
            # Once more: another one may have come up and be asked for the first time.
            search = find_server(spec)
            reason = f"the server did not start ({_read_last_line(folder / LOG)})"
            return search if search.backend is not None else Search(reason=reason)
        time.sleep(LOOK_SECONDS)


def _start(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process that keeps running when this one and its terminal end."""
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        mode |= os.O_TRUNC
    output = os.open(log, mode, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(output)


def _list_environment() -> dict[str, str]:
    """The environment for a server: without secrets, without addresses to listen on, and with absolute paths."""
    kept = {
        name: value for name, value in os.environ.items() if _NEEDED.fullmatch(name) and not _SECRET.fullmatch(name)
    }
    for name in kept.keys() & _PATHS:
        parts = kept[name].split(os.pathsep) if name == "PYTHONPATH" else [kept[name]]
        kept[name] = os.pathsep.join(part if part.startswith("~") else os.path.abspath(part) for part in parts if part)
    return kept


def write_server(model: Model, spec: ModelSpec, given: Mapping[str, object]) -> list[str]:
    """The arguments of a server with these options that loads the model as this command would.

    It reads the environment and config.yaml itself.
    """
    is_path = model.entry is None and Path(spec.checkpoint).is_dir()
    name = str(Path(spec.checkpoint).resolve()) if is_path else model.name
    return write_arguments({**given, "--model": name})


def _read_last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1].removeprefix("idefics: ") if lines else f"see {log}"
