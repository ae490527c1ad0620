"""A metric as a function of the weights of cases, so that any metric has an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""Weights: how often each case counts, 1 for all unless cases are drawn again."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric on some cases. Values are shares; people see them times 100, as they are published."""

    evaluate: Callable[[Floats], float]
    values: Floats | None = None
    """What each case scores, where the metric is their mean."""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_right_or_wrong(self) -> bool:
        return self.values is not None and bool(np.isin(self.values, (0.0, 1.0)).all())


def take_mean(values: Floats, details: Mapping[str, Any] | None = None) -> Measured:
    """A metric that is a mean over cases."""

    def evaluate(weights: Floats) -> float:
        # einsum: a product of BLAS starts threads, which on a busy machine wait for each other a thousand times.
        return float(np.einsum("c,c->", weights, values) / weights.sum())

    return Measured(evaluate, values, details or {})
