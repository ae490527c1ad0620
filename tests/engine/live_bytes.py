"""A device of a given size, made of the CPU: counts the bytes of all tensors that are alive, and refuses more."""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Every storage that an operator makes counts until it is freed. What was there before counts nothing."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.failures = 0
        self.highest = self._peak = self._used = 0
        self._known: dict[int, int] = {}

    def read_peak(self) -> int:
        peak, self._peak = self._peak, self._used
        return peak

    def count_used(self) -> int:
        return self._used

    def count_free(self) -> int:
        return self.capacity - self._used

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage(), given)
        if self._used > self.capacity:
            self.failures += 1
            del made, one
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.highest, self._peak = max(self.highest, self._used), max(self._peak, self._used)
        return made

    def _count(self, storage: Any, given: set[int]) -> None:
        if id(storage) in self._known or id(storage) in given:
            return
        self._known[id(storage)] = storage.nbytes()
        self._used += storage.nbytes()
        weakref.finalize(storage, self._forget, id(storage))

    def _forget(self, name: int) -> None:
        self._used -= self._known.pop(name)
