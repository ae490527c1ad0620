"""Checks of an architecture that nobody has named: whether a faster way of running it changes what it computes."""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import ItemError
from ..models.devices import is_out_of_memory

ALL = 1 << 20
"""As many tokens at a time as there are."""
_MOVED = {torch.float32: 1e-3}
_MOVED_BY_16_BITS = 0.02
_CANNOT = (ItemError, ValueError, RuntimeError, TypeError, IndexError, AttributeError, NotImplementedError)


def find_tolerance(dtype: torch.dtype) -> float:
    """How far a value may move, as a share of its size, by the way it is computed; 16 bits round further."""
    return _MOVED.get(dtype, _MOVED_BY_16_BITS)


def holds(check: Callable[[], bool]) -> bool:
    """Whether a check succeeds: False where the architecture cannot run it. Memory that runs short is raised."""
    try:
        return check()
    except _CANNOT as error:
        if is_out_of_memory(error):
            raise
        return False
