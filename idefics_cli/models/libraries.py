"""The first import of torch and transformers, where an installation that is broken shows."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module

from ..errors import ModelError


def import_libraries() -> None:
    """Import them before anything else does. Raises ModelError where one is missing or damaged."""
    _do_without_temporary_files()
    for name in ("torch", "transformers"):
        try:
            import_module(name)
        except (ImportError, OSError) as error:
            first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(f"{name} cannot be imported ({first_line})", hint="install it again") from error


def _do_without_temporary_files() -> None:
    """Where none can be written, torch wants a folder all the same, for kernels that are never compiled here."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.sep)
