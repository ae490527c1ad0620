"""The first import of torch and transformers, which fails if an installation is broken."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from ..errors import ModelError


def import_libraries() -> None:
    """Import them before anything else does. Raises ModelError if one is missing or damaged."""
    with _without_temporary_files():
        for name in ("torch", "transformers"):
            try:
                import_module(name)
            except (ImportError, OSError) as error:
                first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ModelError(f"{name} cannot be imported ({first_line})", hint="install it again") from error


@contextmanager
def _without_temporary_files() -> Iterator[None]:
    """Let libraries start without a temporary folder: torch asks for one for kernels that are never compiled here, dill
    to know where it is.
    """
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
