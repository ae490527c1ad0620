"""The first import of torch and transformers, where an installation that is broken shows."""

from __future__ import annotations

from ..errors import ModelError


def import_libraries() -> None:
    """Import them, so that later imports cannot fail. Raises ModelError where one is missing or damaged."""
    try:
        import torch
        import transformers
    except (ImportError, OSError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"torch or transformers cannot be imported ({first_line})",
            hint="install them again",
        ) from error
    del torch, transformers
