"""Decoding steps recorded once and replayed as CUDA graphs, so that a GPU waits for no launches from Python.

A recording is valid for one shape and one set of addresses. On other devices, and where recording fails, steps run
eagerly.
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
    """A step is a function without arguments that reads and writes tensors at fixed addresses.

    The first step with a key runs eagerly, which also prepares what is made at first use; from the second on it is
    replayed. The result of a replayed step is overwritten by the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._can_record = device.type == "cuda"
        self._pool: Any = None
        self._graphs: LRUCache[Hashable, tuple[Any, Tensor]] = LRUCache(GRAPHS)
        self._seen: LRUCache[Hashable, bool] = LRUCache(GRAPHS)
        self.replays = 0
        """How often a recording was run in place of its operators."""

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
        self.replays += 1
        return result

    def clear(self) -> None:
        """Drop all recordings and their memory."""
        self._graphs.clear()
        self._seen.clear()
        self._pool = None

    def _record(self, key: Hashable, step: Callable[[], Tensor]) -> tuple[Any, Tensor] | None:
        """Record a step. Recording runs nothing, so the state does not change."""
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
