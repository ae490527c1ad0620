"""What is asked of a device while something runs: operators that compute, and values that the host waits for.

Counted as torch dispatches them, those of which it has no kernel by their parts. Views and empty tensors compute
nothing, and what stays on the host asks a device nothing. A recorded CUDA graph is not dispatched when it is replayed:
`StepGraphs` counts that. What `--compile` fuses is counted by its parts, as nothing can be watched inside of it.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SHOWN_TO_HOST = {"tolist", "item", "numpy", "__bool__", "__int__", "__float__", "__index__", "cpu"}
"""Methods that need values; a CPU has no operator for most of them."""
DEPENDS_ON_VALUES = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
"""Operators that do."""
COMPUTES_NOTHING = {"_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty"}


@dataclass(slots=True)
class Launches:
    """How many operators ran on a device, and how often the host read from it."""

    operators: int = 0
    reads: int = 0


@contextmanager
def count_launches(device: str) -> Iterator[Launches]:
    """Count what runs on a type of device in this thread."""
    counts = Launches()
    methods = _Methods(device, counts)
    with torch.compiler.set_stance("force_eager"), methods, _Operators(device, counts, methods):
        yield counts


class _Methods(TorchFunctionMode):
    def __init__(self, device: str, counts: Launches) -> None:
        super().__init__()
        self._device = device
        self._counts = counts
        self.is_reading = False
        """Whether a read is being made, so that its operators are no others."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in SHOWN_TO_HOST or not _list_on(self._device, args):
            return func(*args, **(kwargs or {}))
        self._counts.reads += 1
        self.is_reading = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.is_reading = False


class _Operators(TorchDispatchMode):
    def __init__(self, device: str, counts: Launches, methods: _Methods) -> None:
        super().__init__()
        self._device = device
        self._counts = counts
        self._methods = methods

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        with self:
            result = func.decompose(*args, **options)
        if result is not NotImplemented:
            return result
        result = func(*args, **options)
        name = func._overloadpacket.__name__
        given = _list_on(self._device, (args, options))
        made = _list_on(self._device, result)
        if name in DEPENDS_ON_VALUES or (given and not made and isinstance(result, Tensor)):
            self._counts.reads += bool(given) and not self._methods.is_reading
        elif not func.is_view and name not in COMPUTES_NOTHING:
            self._counts.operators += bool(given or made)
        return result


def _list_on(device: str, values: Any) -> list[Tensor]:
    """The tensors among values that are on a type of device."""
    return [one for one in tree_leaves(values) if isinstance(one, Tensor) and one.device.type == device]
