"""How many tokens a batch may hold: an estimate, corrected by what batches took where the device can tell.

Knows no requests; whoever runs them says how many tokens are held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..lru import LRUCache
from ..models.families.family import Family
from ..models.memory.gauge import Gauge

BATCH_SHARE = 0.4
"""The part of the free memory for a batch of which nothing was measured."""
MEASURED_SHARE = 0.8
"""And of what is free beside the cache, once it was."""
SANE = 4
"""How many times as large or small as the estimate the bound becomes at most."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What each token of a batch took."""

    tokens: int
    token_bytes: float

    def join(self, other: _Measured) -> _Measured:
        """What is taken besides tokens matters least in a large batch: one twice as large tells all."""
        small, large = sorted((self, other), key=lambda one: one.tokens)
        if large.tokens >= 2 * small.tokens:
            return large
        return _Measured(large.tokens, max(self.token_bytes, other.token_bytes))


class BatchRoom:
    """The bound of one model's batches."""

    def __init__(
        self, model: Any, family: Family, free_bytes: int, store: LRUCache[Any, Any], gauge: Gauge | None
    ) -> None:
        self._estimate = max(1, int(free_bytes * BATCH_SHARE) // count_token_bytes(model, family))
        self._store = store
        self._gauge = gauge
        self._idle_bytes = 0 if gauge is None else gauge.count_used() - store.used_bytes
        self._stored_bytes = self._held = 0
        self._known: dict[str, _Measured] = {}
        self.tokens = self._estimate

    @property
    def is_measured(self) -> bool:
        """Whether the device can tell."""
        return self._gauge is not None

    def hold(self, tokens: int) -> None:
        """Rows hold so many tokens by now."""
        self._held = max(self._held, tokens)

    def stop(self) -> None:
        """Learn from the steps since rows joined."""
        tokens, self._held = self._held, 0
        self._learn("running", tokens)

    def join(self, tokens: int, held: int) -> None:
        """Learn from a pass over prompts, after which so many tokens are held. If it was over few of them, because of a
        prefix or of rows that run, it says little of a prompt.
        """
        self._learn("joining", tokens if 2 * tokens >= held else 0)

    def forget(self) -> None:
        """Passes that failed, or that hold something else, teach nothing."""
        self._held = 0
        self._learn("", 0)

    def _learn(self, kind: str, tokens: int) -> None:
        if self._gauge is None:
            return
        peak, stored = self._gauge.read_peak(), self._store.used_bytes
        needed = max(0, peak - self._idle_bytes - min(stored, self._stored_bytes))
        self._stored_bytes = stored
        if tokens:
            known = self._known.get(kind, _Measured(0, 0))
            self._known[kind] = known.join(_Measured(tokens, needed / tokens))
            self._bound(self._gauge)

    def _bound(self, gauge: Gauge) -> None:
        running = gauge.count_used() - self._idle_bytes - self._store.used_bytes
        kept = self._store.limit_bytes - self._store.used_bytes
        spare = gauge.count_free() + running - kept
        each = max(1.0, *(known.token_bytes for known in self._known.values()))
        tokens = int(spare * MEASURED_SHARE / each)
        most = self._estimate * (SANE if "joining" in self._known else 1)
        self.tokens = max(1, self._estimate // SANE, min(tokens, most))


def count_token_bytes(model: Any, family: Family) -> int:
    """About how many bytes a token of a batch needs: keys and values, twice while they grow, and activations."""
    kept = 0
    text = family.text_config
    for layer in text.per_layer_config or [text] * text.num_hidden_layers:
        heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
        size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
        kept += 2 * heads * size
    return int((2 * kept + 16 * text.hidden_size) * torch.finfo(model.dtype).bits // 8)
