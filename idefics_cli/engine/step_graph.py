"""Steps of decoding recorded once and played back: a GPU then waits for no launches from Python.

A recording holds for one shape and one set of addresses. Elsewhere than on CUDA, and where recording fails, steps are
run as they are.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from ..lru import LRUCache

GRAPHS = 64
"""How many recordings are kept, each for one number of slots and of columns."""

log = logging.getLogger(__name__)


class StepGraphs:
    """A step comes as a function without arguments that reads and writes tensors at addresses that stay.

    The first time a key is seen its step is run, which also readies whatever is made at first use; from the second time
    on it is played. What a played step returns is overwritten by the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._can_record = device.type == "cuda"
        self._pool: Any = None
        self._graphs: LRUCache[Hashable, tuple[Any, Tensor]] = LRUCache(GRAPHS)
        self._seen: LRUCache[Hashable, bool] = LRUCache(GRAPHS)

    def run(self, key: Hashable, step: Callable[[], Tensor]) -> Tensor:
        if not self._can_record:
            return step()
        known = self._graphs.find(key)
        if known is None and self._seen.find(key):
            known = self._record(key, step)
        self._seen.keep(key, True)
        if known is None:
            return step()
        graph, result = known
        graph.replay()
        return result

    def clear(self) -> None:
        """Forget all recordings, and the memory that they hold."""
        self._graphs.clear()
        self._seen.clear()
        self._pool = None

    def _record(self, key: Hashable, step: Callable[[], Tensor]) -> tuple[Any, Tensor] | None:
        """Recording runs nothing: the state stays as it was."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = step()
        except RuntimeError as error:
            self._can_record = False
            self.clear()
            first_line = str(error).partition("\n")[0]
            log.warning("CUDA graphs cannot be used (%s): decoding is slower without them", first_line)
            return None
        self._graphs.keep(key, (graph, result))
        return graph, result
