"""A process that answers for one command: one model on one device, as long as that command runs."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from ..backends import DEFAULT_BATCH_SIZE
from ..backends.daemon.protocol import read_value
from ..backends.daemon.runtime_dir import identify
from ..backends.local import LocalBackend
from ..backends.pool.answerer import BatchAnswerer
from ..errors import raise_as_model_error
from ..values import ModelSpec
from .abilities import find_abilities
from .lifecycle import serve
from .state import Rules, ServerState


def run_worker(given: dict[str, Any]) -> None:
    """Load the model and answer batches until standard input closes, which the end of the command does. Raises
    ModelError.
    """
    folder = Path(given["folder"])
    logging.getLogger("idefics_cli").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_command, args=(folder,), name="lifeline", daemon=True).start()
    spec = read_value(ModelSpec, given["spec"])
    backend = LocalBackend(spec, batch_size=given["batch_size"], cache_bytes=given["cache_bytes"])
    try:
        backend.load()
    except BaseException as error:
        raise_as_model_error(error, f"{spec.checkpoint} cannot be loaded")
    # How much may wait, and in how much memory, whoever starts it has seen to.
    rules = Rules(rows=given["batch_size"] or DEFAULT_BATCH_SIZE, queue=sys.maxsize, memory_bytes=sys.maxsize)
    answerer = None if given["serves"] else BatchAnswerer(backend)
    abilities = find_abilities(backend)
    serve(
        lambda: ServerState(given["name"], backend, identify(spec), rules, abilities=abilities, answerer=answerer),
        folder,
        tcp=None,
        address=None,
        on_ready=lambda: None,
        on_ending=lambda: None,
        hears_signals=False,
    )


def _end_with_command(folder: Path) -> None:
    """End when standard input closes: nobody is left to be answered."""
    while sys.stdin.read(65536):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
