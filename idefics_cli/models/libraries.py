"""The first import of torch and transformers, where an installation that is broken shows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from ..errors import ModelError


def import_libraries() -> None:
    """Import them before anything else does. Raises ModelError where one is missing or damaged."""
    with _without_temporary_files():
        for name in ("torch", "transformers"):
            try:
                import_module(name)
            except (ImportError, OSError) as error:
                first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ModelError(
                    f"{name} cannot be imported ({first_line})", hint="install it again"
                ) from error


@contextmanager
def _without_temporary_files() -> Iterator[None]:
    """Where none can be written, libraries ask for a folder all the same: torch for kernels that are never compiled
    here, dill to know where it is."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.sep)
        tempfile.tempdir = os.sep
        try:
            yield
        finally:
            tempfile.tempdir = None
    else:
        yield
