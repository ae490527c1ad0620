"""The measured values as text and as JSON. Pure: nothing here reads or prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cases import Case
from .intervals import Comparison, Interval, Measured
from .metrics import METRICS

MOST_LABELS = 12
"""Of more classes, only programs read the confusion matrix."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A metric of one file, or of one group of its cases."""

    metric: str
    file: str
    group: str
    count: int
    interval: Interval
    measured: Measured
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured. `worst` are the lowest scores of the first file, by its first metric with single
    cases.
    """

    findings: Sequence[Scored]
    notes: Sequence[str]
    worst: Sequence[tuple[float, Case]] = ()
    by: str | None = None


def percent(value: float) -> str:
    """A share times 100."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def list_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The table with its heading; columns for files and groups only if there are several."""
    findings = evaluation.findings
    has_files, has_groups = len({one.file for one in findings}) > 1, evaluation.by is not None
    has_tests = any(one.comparison for one in findings)
    heading = ["METRIC", *(["FILE"] * has_files), *([(evaluation.by or "").upper()] * has_groups)]
    rows = [(*heading, "VALUE", "95 %", "CASES", *(["DIFFERENCE", "P"] * has_tests))]
    for one in findings:
        cells = [METRICS[one.metric].title, *([one.file] * has_files), *([one.group or "all"] * has_groups)]
        cells += [percent(one.interval.value), _span(one.interval), f"{one.count:,}"]
        if has_tests:
            cells += ["", ""] if one.comparison is None else _compare(one.comparison)
        rows.append(tuple(cells))
    return rows


def _span(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"


def _compare(comparison: Comparison) -> list[str]:
    moved = comparison.difference
    p = "< 0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}"
    return [f"{100 * moved.value:+.1f} ({_span(moved)})", f"{p} {comparison.test}"]


def list_details(finding: Scored) -> Iterator[list[tuple[str, ...]]]:
    """The tables behind a metric: classes, confusion matrix, fields."""
    details = finding.measured.details
    if classes := details.get("classes"):
        yield [
            ("CLASS", "PRECISION", "RECALL", "F1", "CASES"),
            *(
                (
                    name,
                    percent(one["precision"]),
                    percent(one["recall"]),
                    percent(one["f1"]),
                    f"{one['count']:,}",
                )
                for name, one in classes.items()
            ),
        ]
    if (confusion := details.get("confusion")) and len(confusion["labels"]) <= MOST_LABELS:
        labels = confusion["labels"]
        yield [
            ("RIGHT \\ SAID", *labels),
            *(
                (name, *(f"{count:,}" for count in counts))
                for name, counts in zip(labels, confusion["matrix"], strict=False)
            ),
        ]
    if fields := details.get("fields"):
        yield [
            ("FIELD", "ACCURACY", "CASES"),
            *((name, percent(one["accuracy"]), f"{one['count']:,}") for name, one in fields.items()),
        ]


def list_worst(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The lowest scores: the answer and the reference."""
    return [
        ("SCORE", "ID", "SAID", "RIGHT"),
        *((percent(score), case.id, _cut(_say(case)), _cut(_right(case))) for score, case in evaluation.worst),
    ]


def _say(case: Case) -> str:
    return case.said if case.truth is None else json.dumps(case.data, ensure_ascii=False)


def _right(case: Case) -> str:
    return " / ".join(dict.fromkeys(case.answers)) or json.dumps(case.truth, ensure_ascii=False)


def _cut(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The same as JSON, with the details of each metric. Values are times 100, as in the table."""
    return {
        "metrics": [_describe(one) for one in evaluation.findings],
        "worst": [
            {
                "id": case.id,
                "score": _round(score),
                "said": _say(case),
                "right": list(case.answers) or case.truth,
            }
            for score, case in evaluation.worst
        ],
        "notes": list(evaluation.notes),
    }


def _describe(one: Scored) -> dict[str, Any]:
    described: dict[str, Any] = {
        "metric": one.metric,
        "file": one.file,
        "group": one.group or None,
        "value": _round(one.interval.value),
        "low": _round(one.interval.low),
        "high": _round(one.interval.high),
        "cases": one.count,
    }
    if one.comparison is not None:
        moved = one.comparison.difference
        described["against_first"] = {
            "difference": _round(moved.value),
            "low": _round(moved.low),
            "high": _round(moved.high),
            "p": one.comparison.p,
            "test": one.comparison.test,
        }
    return described | ({"details": dict(one.measured.details)} if one.measured.details else {})


def _round(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 4)


def list_fallen(findings: Sequence[Scored], least: Mapping[str, float]) -> list[str]:
    """The --fail-under values that the first file does not reach, in words."""
    fallen = []
    for name, wanted in least.items():
        value = next(100 * one.interval.value for one in findings if one.metric == name and not one.group)
        has_fallen = value > wanted if METRICS[name].less_is_better else not value >= wanted
        if has_fallen:
            side = "above" if METRICS[name].less_is_better else "under"
            fallen.append(f"{name} is {value:.2f}, {side} {wanted:g}")
    return fallen
