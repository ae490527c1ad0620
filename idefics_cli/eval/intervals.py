"""Uncertainty: bootstrap intervals, and whether two files differ by more than chance.

A metric is a function of the weights of cases, so that any metric has an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""Weights: how often each case counts, 1 for all unless cases are drawn again."""
RESAMPLES = 1000
LEVEL = 0.95
SEED = 0


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


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the middle 95 % of its bootstrap distribution."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of a file from the first, its interval, and the p-value."""

    difference: Interval
    p: float
    test: Literal["McNemar", "paired bootstrap"]


def estimate(measured: Sequence[Measured], count: int, resamples: int = RESAMPLES) -> list[Floats]:
    """The value of each metric on all cases, then on resampled cases, the same for all metrics.

    The percentile bootstrap (Efron 1979).
    """
    random = np.random.default_rng(SEED)
    values = np.zeros((len(measured), resamples + 1))
    values[:, 0] = [one.evaluate(np.ones(count)) for one in measured]
    for turn in range(1, resamples + 1):
        weights = np.bincount(random.integers(0, count, count, np.int32), minlength=count).astype(float)
        values[:, turn] = [one.evaluate(weights) for one in measured]
    return list(values)


def find_interval(drawn: Floats) -> Interval:
    """The value and its interval, from the result of `estimate`."""
    tail = (1 - LEVEL) / 2
    known = drawn[1:][~np.isnan(drawn[1:])]
    if not len(known):
        return Interval(float(drawn[0]), float("nan"), float("nan"))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(drawn[0]), float(low), float(high))


def compare(first: Measured, other: Measured, first_drawn: Floats, other_drawn: Floats) -> Comparison:
    """Another file against the first, on the same cases: McNemar's exact test where each case is right or wrong
    (McNemar 1947), or else the paired bootstrap (Koehn 2004, ACL W04-3250), two-sided."""
    difference = find_interval(other_drawn - first_drawn)
    if first.is_right_or_wrong and other.is_right_or_wrong:
        assert first.values is not None
        assert other.values is not None
        better = int(((other.values == 1) & (first.values == 0)).sum())
        worse = int(((other.values == 0) & (first.values == 1)).sum())
        return Comparison(difference, run_mcnemar(better, worse), "McNemar")
    drawn = (other_drawn - first_drawn)[1:]
    least = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Comparison(difference, min(1.0, 2 * (least + 1) / (len(drawn) + 1)), "paired bootstrap")


def run_mcnemar(better: int, worse: int) -> float:
    """The probability of a split at least as uneven of the cases that only one of two got right, if both were equally
    likely.
    """
    count = better + worse
    if better == worse:
        return 1.0
    every = math.lgamma(count + 1) - count * math.log(2)
    terms = (math.exp(every - math.lgamma(k + 1) - math.lgamma(count - k + 1)) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * math.fsum(terms))
