"""How well calibrated the probabilities of labels are, and the temperature that calibrates them, or one from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadItem, UsageError
from ..files import read_file
from ..jsonl import parse_line
from .cases import Case
from .intervals import Floats
from .labels import ECE_BINS, assign_bins
from .wording import normalise_exact

LEAST, MOST = 0.05, 20.0
FOLDS = 5
LEAST_ROWS = 20
_WHOLE = 0.999
_MAX_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Fitted:
    """A temperature, and what it does: likelihood and calibration before and after. After, each row is measured at the
    temperature that the other folds want."""

    temperature: float
    rows: int
    nll: tuple[float, float]
    ece: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "rows": self.rows,
            **{"nll_before": self.nll[0], "nll_after": self.nll[1]},
            **{"ece_before": self.ece[0], "ece_after": self.ece[1]},
        }


def fit_temperature(cases: Sequence[Case]) -> Fitted:
    """The temperature with the highest likelihood of the right labels (Guo et al. 2017, arXiv 1706.04599). Raises
    UsageError.
    """
    logprobs, right = _read_rankings(cases)
    count = len(right)
    if count < LEAST_ROWS:
        raise UsageError(
            f"{count} rows rank the label that is right", hint=f"at least {LEAST_ROWS} are needed to fit on"
        )
    temperature = _fit(logprobs, right)
    folds = np.random.default_rng(0).permutation(count) % FOLDS
    after = np.zeros_like(logprobs)
    for fold in range(FOLDS):
        own = _fit(logprobs[folds != fold], right[folds != fold])
        after[folds == fold] = _temper(logprobs[folds == fold], own)
    before = _temper(logprobs, 1.0)
    return Fitted(
        round(temperature, 4),
        count,
        (_measure_nll(before, right), _measure_nll(after, right)),
        (_measure_error(before, right), _measure_error(after, right)),
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """The temperature at which a model's probabilities of labels are calibrated."""

    temperature: float
    model: str


def load_calibration(name: str) -> Calibration:
    """What is in the file of --calibration. Raises UsageError for one that `idefics calibrate` did not write."""
    try:
        document = parse_line(read_file(Path(name), _MAX_BYTES).strip())
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}", hint="make it with `idefics calibrate`") from error
    except BadItem as error:
        raise UsageError(f"{name}: {error}", hint="make it with `idefics calibrate`") from error
    temperature, model = document.get("temperature"), document.get("model")
    if (
        not isinstance(temperature, (int, float))
        or not isinstance(model, str)
        or not (math.isfinite(temperature) and temperature > 0)
    ):
        raise UsageError(f"{name} is not a calibration file", hint="make it with `idefics calibrate`")
    return Calibration(float(temperature), model)


def _read_rankings(cases: Sequence[Case]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The log-likelihoods of each row's labels, best first and padded, and the place of the right one."""
    ranked = [case for case in cases if len(case.scores) > 1]
    if not ranked:
        raise UsageError("these rows have no ranked labels", hint="make them with classify or rate")
    if any(sum(chance for _, _, chance in case.scores) < _WHOLE for case in ranked):
        raise UsageError("these rows keep only their first labels", hint="make them again without --top")
    rows, places = [], []
    for case in ranked:
        answers = set(map(normalise_exact, case.answers))
        names = [normalise_exact(label) for label, _, _ in case.scores]
        if (place := next((place for place, name in enumerate(names) if name in answers), None)) is not None:
            rows.append([logprob for _, logprob, _ in case.scores])
            places.append(place)
    table = np.full((len(rows), max(map(len, rows), default=0)), -np.inf)
    for place, row in enumerate(rows):
        table[place, : len(row)] = np.array(row) - max(row)
    return table, np.array(places, np.int64)


def _fit(logprobs: Floats, right: npt.NDArray[np.int64]) -> float:
    """The maximum of the likelihood, which is concave in 1/T: bisection on its slope."""
    finite = np.where(np.isfinite(logprobs), logprobs, 0.0)
    wanted = finite[np.arange(len(right)), right].mean()
    low, high = np.log(LEAST), np.log(MOST)
    for _ in range(60):
        middle = (low + high) / 2
        expected = (_temper(logprobs, float(np.exp(middle))) * finite).sum(axis=1).mean()
        low, high = (middle, high) if expected > wanted else (low, middle)
    return float(np.exp((low + high) / 2))


def _temper(logprobs: Floats, temperature: float) -> Floats:
    weights = np.exp(logprobs / temperature)
    chances: Floats = weights / weights.sum(axis=1, keepdims=True)
    return chances


def _measure_nll(chances: Floats, right: npt.NDArray[np.int64]) -> float:
    own = chances[np.arange(len(right)), right]
    return float(-np.log(np.maximum(own, 1e-300)).mean())


def _measure_error(chances: Floats, right: npt.NDArray[np.int64]) -> float:
    """The expected calibration error of the first labels."""
    sure, is_right = chances[:, 0], right == 0
    gaps = np.bincount(assign_bins(sure), sure - is_right, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(right))
