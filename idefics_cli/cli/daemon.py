"""The way to a model that is loaded already: find the server that has it, or start one in the background.

Nothing here imports torch, and whatever goes wrong with a server, the model is loaded in this process instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ..backends.daemon.backend import ResidentBackend, Search, find_server
from ..backends.daemon.runtime_dir import LOG, is_locked, make_folder
from ..config import PACKAGE, Model
from ..errors import UsageError
from ..values import ModelSpec
from .options import Options
from .output import Talk
from .settings import choose_keep_alive

LOOK_SECONDS = 0.05
MAX_LOG_BYTES = 1_000_000
PASSED_ON = (
    "revision",
    "device",
    "dtype",
    "quantize",
    "attention",
    "detail",
    "max_memory",
    "batch_size",
    "cache_memory",
)
"""Options of a command that its server is started with; environment and config.yaml it reads itself."""
_MAIN = """
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
from idefics_cli.cli.app import main
main()
"""
_started: list[subprocess.Popen[bytes]] = []


def open_warm(
    spec: ModelSpec, model: Model, options: Options, talk: Talk, *, may_start: bool = True
) -> ResidentBackend | None:
    """A server that has the model loaded, started first where --keep-alive asks for it; None if there is to be none."""
    if options.no_server:
        return None
    seconds = choose_keep_alive(options)
    search = find_server(spec, keep_alive_seconds=seconds)
    if search.backend is None and not search.is_alive and seconds and may_start:
        if search.reason:
            talk.note(f"{search.reason}; starting another")
        talk.note(f"loading {model.name} in the background, to keep it for {options.keep_alive}")
        arguments = pass_on(model, spec, options) + write_flags({"keep_alive": options.keep_alive})
        search = start_server(arguments, spec)
    if search.backend is None:
        if search.reason:
            talk.note(f"{search.reason}; loading the model here")
        return None
    talk.detail(f"answered by the server, process {search.backend.pid}")
    if options.cache_memory is not None and not _started:
        talk.note("--cache-memory changes nothing: the running server has its own")
    return search.backend


def start_server(
    arguments: list[str], spec: ModelSpec, environment: Mapping[str, str] | None = None
) -> Search:
    """Start `idefics serve` in the background and wait until it, or one that was faster, has loaded its model."""
    try:
        folder = make_folder()
    except UsageError as error:
        return Search(reason=str(error))
    command = [sys.executable, "-P", "-c", _MAIN, str(PACKAGE.parent), "serve", *arguments]
    process = _start(command, folder / LOG, {**os.environ, **(environment or {})})
    _started.append(process)
    while True:
        search = find_server(spec)
        if search.backend is not None or search.is_alive:
            return search
        if process.poll() is not None and not is_locked(folder):
            # Once more: another one may have come up and be asked for the first time.
            search = find_server(spec)
            reason = f"no server came up ({_read_last_line(folder / LOG)})"
            return search if search.backend is not None else Search(reason=reason)
        time.sleep(LOOK_SECONDS)


def _start(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process that goes on when this one and its terminal are gone."""
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
            start_new_session=True,
        )
    finally:
        os.close(output)


def pass_on(model: Model, spec: ModelSpec, options: Options) -> list[str]:
    """The arguments of a server that loads the model as this command would."""
    is_path = model.entry is None and Path(spec.checkpoint).is_dir()
    arguments = ["--model", str(Path(spec.checkpoint).resolve()) if is_path else model.name]
    arguments += write_flags({name: getattr(options, name) for name in PASSED_ON})
    flags = {"--4bit": options.four_bit, "--no-quantized-cache": options.no_quantized_cache}
    flags["--offline"] = options.offline
    return arguments + [flag for flag, is_set in flags.items() if is_set]


def write_flags(values: Mapping[str, object]) -> list[str]:
    """Options as arguments, those that were given."""
    return [
        word
        for name, value in values.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def _read_last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1].removeprefix("idefics: ") if lines else f"see {log}"
