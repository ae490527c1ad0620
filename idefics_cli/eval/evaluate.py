"""Files of rows against references: common cases, metrics, intervals, groups and tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .cases import Case, CaseFile, Cases, read_cases
from .intervals import Floats, Measured, compare, estimate, find_interval
from .metrics import METRICS, choose_metrics, measure, name_metrics
from .references import References, load_references
from .report import Evaluation, Scored

MOST_GROUPS = 50


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """What to measure, and of which files."""

    paths: Sequence[Path]
    references: Path
    metrics: Sequence[str] = ()
    by: str | None = None
    worst: int = 0
    positive: str | None = None
    also: Sequence[str] = ()
    """Metrics to measure besides those named, or besides those of the task."""


def evaluate(plan: EvalPlan) -> Evaluation:
    """Measure each file on the cases that all of them have. Raises UsageError if there are none."""
    references = load_references(plan.references)
    named = name_metrics(plan.metrics)
    files = [read_cases(path, references, plan.by) for path in plan.paths]
    common = set.intersection(*(set(file.cases) for file in files))
    if not common:
        raise UsageError(
            f"no row of {' and '.join(map(str, plan.paths))} has a reference in {plan.references}",
            hint="both need the same ids, or the same images and questions",
        )
    numbers = sorted(common)
    every = [Cases(file.cases[number] for number in numbers) for file in files]
    metrics = list(dict.fromkeys((*(named or choose_metrics(files[0].task, every[0])), *plan.also)))
    names = _name_files(files)
    findings, measured = _score(every, names, metrics, plan.positive)
    if plan.by is not None:
        findings += _score_groups(every, names, metrics, plan)
    return Evaluation(
        findings,
        _list_notes(files, references, len(common)),
        _find_worst(every[0], measured, plan.worst),
        plan.by,
    )


def _score(
    every: Sequence[Sequence[Case]],
    names: Sequence[str],
    metrics: Sequence[str],
    positive: str | None,
    group: str = "",
) -> tuple[list[Scored], list[Measured]]:
    """The metrics of each file, metric by metric; for the first file also the measured values."""
    measured = [[measure(name, cases, positive) for cases in every] for name in metrics]
    count = len(every[0])
    drawn = estimate([one for of_files in measured for one in of_files], count)
    findings = []
    for place, (name, of_files) in enumerate(zip(metrics, measured, strict=True)):
        values = drawn[place * len(every) : (place + 1) * len(every)]
        for file, one, own in zip(names, of_files, values, strict=True):
            test = None if one is of_files[0] else compare(of_files[0], one, values[0], own)
            findings.append(Scored(name, file, group, count, find_interval(own), one, test))
    return findings, [of_files[0] for of_files in measured]


def _score_groups(
    every: Sequence[Sequence[Case]], names: Sequence[str], metrics: Sequence[str], plan: EvalPlan
) -> list[Scored]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, case in enumerate(every[0]):
        places[case.group].append(place)
    if set(places) == {""}:
        raise UsageError(f"neither rows nor references have a field {plan.by!r}", hint="name another with --by")
    if len(places) > MOST_GROUPS:
        raise UsageError(
            f"{plan.by} has {len(places):,} values", hint=f"split by a field that has at most {MOST_GROUPS}"
        )
    findings: list[Scored] = []
    for group, chosen in sorted(places.items()):
        cases = [Cases(of_file[place] for place in chosen) for of_file in every]
        for name in metrics:
            try:
                findings += _score(cases, names, [name], plan.positive, group or "(none)")[0]
            except UsageError:  # a group of one image, or of one class
                continue
    return findings


def _find_worst(cases: Sequence[Case], measured: Sequence[Measured], most: int) -> list[tuple[float, Case]]:
    values: Floats | None = next((one.values for one in measured if one.values is not None), None)
    if not most:
        return []
    if values is None:
        raise UsageError("these metrics have no value for a single case", hint="name one that has, such as exact")
    order = np.argsort(values, kind="stable")[:most]
    return [(float(values[place]), cases[place]) for place in order]


def _name_files(files: Sequence[CaseFile]) -> list[str]:
    names = [file.path.name for file in files]
    return names if len(set(names)) == len(names) else [str(file.path) for file in files]


def _list_notes(files: Sequence[CaseFile], references: References, count: int) -> list[str]:
    """Which rows did not count, or counted as wrong."""
    notes = []
    for file in files:
        parts = [f"{file.failed:,} failed rows count as wrong"] if file.failed else []
        parts += [f"{file.unmatched:,} rows have no reference"] if file.unmatched else []
        missing = references.count - len(file.cases)
        parts += [f"{missing:,} references have no row"] if missing else []
        if parts:
            notes.append(f"{file.path}: {', '.join(parts)}")
    if len(files) > 1 and any(len(file.cases) > count for file in files):
        notes.append(f"{count:,} cases are in all files; only those are measured")
    return notes


def read_least(given: Sequence[str]) -> dict[str, float]:
    """The values of --fail-under. Raises UsageError."""
    least = {}
    for one in given:
        name, _, written = one.partition("=")
        try:
            least[name.strip()] = float(written)
        except ValueError:
            raise UsageError(f"--fail-under {one} cannot be read", hint="write accuracy=90") from None
        if name.strip() not in METRICS:
            raise UsageError(f"there is no metric {name!r}", hint=f"name one of {', '.join(METRICS)}")
    return least
