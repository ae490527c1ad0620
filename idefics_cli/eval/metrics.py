"""The table of metrics, and the default metrics of each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .answers import measure_anls, measure_exact, measure_fields, measure_vqa
from .captions import measure_bleu, measure_cider, measure_rouge
from .cases import Case
from .intervals import Measured
from .labels import measure_accuracy, measure_auc, measure_average_precision, measure_calibration, measure_f1


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    title: str
    measure: Callable[[Sequence[Case], str | None], Measured]
    """Takes the label whose ranking is measured, where it measures one."""
    less_is_better: bool = False


def _plain(measure: Callable[[Sequence[Case]], Measured]) -> Callable[[Sequence[Case], str | None], Measured]:
    """A metric without a positive label."""
    return lambda cases, _: measure(cases)


METRICS: dict[str, Metric] = {
    "exact": Metric("exact match", _plain(measure_exact)),
    "accuracy": Metric("accuracy", _plain(measure_accuracy)),
    "f1": Metric("F1, mean over classes", _plain(measure_f1)),
    "vqa": Metric("VQA accuracy", _plain(measure_vqa)),
    "anls": Metric("ANLS", _plain(measure_anls)),
    "cider": Metric("CIDEr-D, Python PTB", _plain(measure_cider)),
    "bleu": Metric("BLEU-4, Python PTB", _plain(measure_bleu)),
    "rouge": Metric("ROUGE-L, Python PTB", _plain(measure_rouge)),
    "auc": Metric("ROC-AUC", measure_auc),
    "ap": Metric("average precision", measure_average_precision),
    "ece": Metric("expected calibration error", _plain(measure_calibration), less_is_better=True),
    "fields": Metric("accuracy by field", _plain(measure_fields)),
}
_ANNOTATORS = 3
"""From so many answers to one question on, they are those of annotators."""


def name_metrics(names: Sequence[str]) -> list[str]:
    """The named metrics, each once. Raises UsageError for an unknown one."""
    every = [part.strip() for name in names for part in name.split(",") if part.strip()]
    for name in every:
        if name not in METRICS:
            raise UsageError(f"there is no metric {name!r}", hint=f"name one of {', '.join(METRICS)}")
    return list(dict.fromkeys(every))


def choose_metrics(task: str, cases: Sequence[Case]) -> list[str]:
    """The default metrics of a task."""
    if any(case.truth is not None for case in cases):
        return ["fields", "exact"]
    if any(case.scores for case in cases):
        labels = {label for case in cases for label, _, _ in case.scores}
        kinds = {case.answers for case in cases}
        return ["accuracy", "f1", *(("auc", "ap") if len(labels) == 2 and len(kinds) > 1 else ()), "ece"]
    if any(case.label is not None for case in cases):
        return ["accuracy", "f1"]
    if task in ("caption", "write") and len(cases) > 1:
        return ["cider", "bleu", "rouge"]
    if any(len(case.answers) >= _ANNOTATORS for case in cases):
        return ["vqa"]
    return ["exact"]


def measure(name: str, cases: Sequence[Case], positive: str | None = None) -> Measured:
    """A metric on cases. Raises UsageError if the cases lack what it needs."""
    metric = METRICS[name]
    needs_truth = name == "fields"
    if needs_truth and all(case.truth is None for case in cases):
        raise UsageError("no reference has `data`", hint='write {"id": …, "data": {…}}')
    if not needs_truth and name != "exact" and not all(case.answers for case in cases):
        raise UsageError(f"{name} needs answers in words", hint="measure `data` with fields and exact")
    return metric.measure(cases, positive)
