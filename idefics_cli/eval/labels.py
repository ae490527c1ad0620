"""Metrics of labels: accuracy, each class by itself, and how good the probabilities of a ranking are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .answers import is_exact
from .cases import Case
from .intervals import Floats, Measured, take_mean
from .wording import normalise_exact

ECE_BINS = 15
MOST_CLASSES = 50
"""The most classes with a ranking each; a mean over more says little."""
Codes = npt.NDArray[np.int64]


def measure_accuracy(cases: Sequence[Case]) -> Measured:
    """Accuracy; in its details precision, recall and F1 of each class and the confusion matrix (scikit-learn's
    `precision_recall_fscore_support`, `confusion_matrix`: a row is what is right, a column what was said)."""
    names, right, said = _code(cases)
    values = np.array([is_exact(_label(case), case.answers) for case in cases], float)
    size = len(names)
    if size > MOST_CLASSES:
        return take_mean(values)
    matrix = np.bincount(right * (size + 1) + said, minlength=size * (size + 1)).reshape(size, size + 1)
    precision, recall, f1 = _score_classes(matrix)
    classes = {
        name: {
            "precision": float(precision[place]),
            "recall": float(recall[place]),
            "f1": float(f1[place]),
            "count": int(matrix[place].sum()),
        }
        for place, name in enumerate(names)
    }
    others = [*names, "(none)"] if matrix[:, -1].any() else names
    confusion: dict[str, Any] = {"labels": others, "matrix": matrix[:, : len(others)].tolist()}
    return take_mean(values, {"classes": classes, "confusion": confusion})


def measure_f1(cases: Sequence[Case]) -> Measured:
    """Macro F1: the plain mean over classes of 2PR / (P + R) (scikit-learn's `f1_score(average="macro")`)."""
    names, right, said = _code(cases)
    size = len(names)
    cells = right * (size + 1) + said

    def evaluate(weights: Floats) -> float:
        matrix = np.bincount(cells, weights, minlength=size * (size + 1)).reshape(size, size + 1)
        is_there = matrix.sum(axis=1) + matrix[:, :size].sum(axis=0) > 0
        return float(_score_classes(matrix)[2][is_there].mean())

    return Measured(evaluate)


def _score_classes(matrix: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    size = len(matrix)
    hits = matrix[:, :size].diagonal()
    said, right = matrix[:, :size].sum(axis=0), matrix.sum(axis=1)

    def divide(part: Floats, whole: Floats) -> Floats:
        return np.divide(part, whole, out=np.zeros(size), where=whole > 0)

    return divide(hits, said), divide(hits, right), divide(2 * hits, said + right)


def measure_auc(cases: Sequence[Case], positive: str | None = None) -> Measured:
    """ROC-AUC: how often a positive case is ranked above a negative one, half for a tie (Fawcett 2006, doi
    10.1016/j.patrec.2005.10.010). Without a positive label, the mean over labels, each against the rest.
    """
    return _measure_rankings(cases, positive, _area_under_roc)


def measure_average_precision(cases: Sequence[Case], positive: str | None = None) -> Measured:
    """Average precision: the sum of precision times the recall gained, down the ranking (scikit-learn's
    `average_precision_score`). Without a positive label, the mean over labels, each against the rest."""
    return _measure_rankings(cases, positive, _average_precision)


def _area_under_roc(good: Floats, bad: Floats) -> float:
    """From the weights of positive and negative cases at each score, the lowest first."""
    below = np.cumsum(bad) - bad
    return float(good @ (below + bad / 2) / (good.sum() * bad.sum()))


def _average_precision(good: Floats, bad: Floats) -> float:
    found, seen = np.cumsum(good[::-1]), np.cumsum((good + bad)[::-1])
    precision = np.divide(found, seen, out=np.zeros(len(found)), where=seen > 0)
    return float(precision @ good[::-1] / good.sum())


def _measure_rankings(cases: Sequence[Case], positive: str | None, rank: Any) -> Measured:
    labels = sorted({label for case in cases for label, _, _ in case.scores})
    if not labels:
        raise UsageError("these rows have no ranked labels", hint="make them with classify or rate")
    if positive is not None:
        if normalise_exact(positive) not in map(normalise_exact, labels):
            raise UsageError(f"no row ranks {positive!r}", hint=f"name one of {', '.join(labels[:10])}")
        labels = [label for label in labels if normalise_exact(label) == normalise_exact(positive)]
    if len(labels) > MOST_CLASSES:
        raise UsageError(f"there are {len(labels)} labels to rank against the rest", hint="name one with --positive")
    rankings = []
    every = [{label: chance for label, _, chance in case.scores} for case in cases]
    for label in labels:
        is_right = np.array([is_exact(label, case.answers) for case in cases])
        if is_right.all() or not is_right.any():
            continue
        chances = np.array([chances.get(label, 0.0) for chances in every])
        places = np.unique(chances, return_inverse=True)[1]
        rankings.append((is_right, places, int(places.max()) + 1))
    if not rankings:
        raise UsageError(
            "all references are the same label, so a ranking cannot be measured", hint="leave auc and ap out"
        )

    def evaluate(weights: Floats) -> float:
        values = []
        for is_right, places, size in rankings:
            good = np.bincount(places, weights * is_right, minlength=size)
            bad = np.bincount(places, weights * ~is_right, minlength=size)
            if good.sum() and bad.sum():
                values.append(rank(good, bad))
        return float(np.mean(values)) if values else float("nan")

    return Measured(evaluate)


def measure_calibration(cases: Sequence[Case]) -> Measured:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): the difference between probability and accuracy
    in 15 equal bins. Failed rows, which have no probability, are left out.
    """
    sure = np.array([case.probability for case in cases])
    is_known = ~np.isnan(sure)
    if not is_known.any():
        raise UsageError("these rows do not say how sure the model was", hint="leave ece out")
    right = np.array([is_exact(_label(case), case.answers) for case in cases], float)
    bins = assign_bins(np.where(is_known, sure, 0.0))
    known = is_known.astype(float)
    sure = np.where(is_known, sure, 0.0)

    def evaluate(weights: Floats) -> float:
        weights = weights * known
        gaps = np.bincount(bins, weights * (sure - right), minlength=ECE_BINS)
        return float(np.abs(gaps).sum() / weights.sum())

    counts, sums, hits = (np.bincount(bins, known * values, minlength=ECE_BINS) for values in (1.0, sure, right))
    details = [
        {"count": int(count), "sure": sums[place] / count, "right": hits[place] / count}
        for place, count in enumerate(counts)
        if count
    ]
    return Measured(evaluate, details={"bins": details})


def assign_bins(sure: Floats) -> Codes:
    """The bin of each probability; all but the first are open below."""
    return np.clip(np.ceil(sure * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def _label(case: Case) -> str:
    return case.label if case.label is not None else case.said


def _code(cases: Sequence[Case]) -> tuple[list[str], Codes, Codes]:
    """The names of the classes, and the numbers of the references and of the answers; an answer that is no class is the
    last.

    If several answers are right, the reference is the given answer if right, else the first.
    """
    names: dict[str, str] = {}
    pairs = []
    for case in cases:
        said = normalise_exact(_label(case))
        answers = {normalise_exact(answer): answer for answer in reversed(case.answers)}
        right = said if said in answers else normalise_exact(case.answers[0])
        names.setdefault(right, answers[right])
        pairs.append((right, said))
        if case.label is not None:
            names.setdefault(said, case.label)
    order = {key: place for place, key in enumerate(sorted(names))}
    rights = np.array([order[right] for right, _ in pairs], np.int64)
    saids = np.array([order.get(said, len(order)) for _, said in pairs], np.int64)
    return [names[key] for key in order], rights, saids
