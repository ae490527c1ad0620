"""The measured values, for people and for programs: comparisons, a table, one JSON line.

Pure. The arms agree when every text is the same and no score differs by more than `TOLERANCE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from ..tables import align
from .measure import RIVALS, Arm, ArmOutcome
from .photos import count_cores
from .workloads import Workload

if TYPE_CHECKING:
    from .roofline import Machine

TOLERANCE = 1e-4
COST_HEADINGS = ("CPU s", "x rival's CPU s")
HEADINGS = ("workload", "arm", "seconds", "images/s", "x guide", "x batch", "prompt tokens", "peak MB")


@dataclass(frozen=True, slots=True)
class Line:
    """A workload, the number of its images, and the outcome of each arm."""

    workload: Workload
    images: int
    outcomes: Mapping[Arm, ArmOutcome]

    def compare_speed(self, arm: Arm, other: Arm) -> float | None:
        """How many times faster an arm was than another."""
        ours, theirs = self.outcomes.get(arm), self.outcomes.get(other)
        if ours is None or theirs is None or arm == other or ours.failure or theirs.failure:
            return None
        return theirs.seconds / ours.seconds

    @property
    def rival(self) -> Arm | None:
        return next((arm for arm in self.outcomes if arm in RIVALS), None)

    def compare_cost(self, arm: Arm) -> float | None:
        """How many times as much processor time the rival took."""
        ours, rival = self.outcomes[arm], self.rival
        if rival in (None, arm) or ours.failure or self.outcomes[rival].failure or not ours.cpu_seconds:
            return None
        return self.outcomes[rival].cpu_seconds / ours.cpu_seconds


@dataclass(frozen=True, slots=True)
class Setting:
    """What all lines have in common. Answers are `exact` in float32 only: a coarser sum depends on its batch."""

    model: str
    machine: Machine
    batch_size: int
    new_tokens: int

    @property
    def is_exact(self) -> bool:
        return self.machine.dtype == "float32"


def list_failures(lines: Sequence[Line]) -> list[str]:
    return [
        f"{line.workload.name}: {arm} failed: {outcome.failure}"
        for line in lines
        for arm, outcome in line.outcomes.items()
        if outcome.failure is not None
    ]


def list_differences(lines: Sequence[Line]) -> list[str]:
    """A sentence for each arm whose answers are not those of the first arm that ran."""
    return [difference for line in lines for difference in _compare(line)]


def _compare(line: Line) -> Iterator[str]:
    done = [(arm, outcome) for arm, outcome in line.outcomes.items() if outcome.failure is None]
    for arm, outcome in done[1:]:
        reference, expected = done[0]
        texts = scores = 0
        gap = 0.0
        for ours, theirs in zip(outcome.replies, expected.replies, strict=True):
            ranked, others = dict(ours.logprobs), dict(theirs.logprobs)
            gaps = [abs(ranked.get(label, float("inf")) - others[label]) for label in others]
            gap = max(gap, *gaps, 0.0)
            scores += any(one > TOLERANCE for one in gaps) or len(ranked) != len(others)
            texts += ours.text.strip() != theirs.text.strip()
        total = len(expected.replies)
        if texts:
            yield f"{line.workload.name}: {texts} of {total} answers of {arm} differ from those of {reference}"
        if scores:
            yield (
                f"{line.workload.name}: the scores of {scores} of {total} rankings of {arm} differ from those of "
                f"{reference}, by up to {gap:.2g}"
            )


def tabulate(lines: Sequence[Line], setting: Setting) -> str:
    """The table for people."""
    rows = [HEADINGS, *(row for line in lines for row in _rows(line))]
    if any(line.rival for line in lines):
        costs = [_list_costs(line) for line in lines]
        rows = [(*row, *more) for row, more in zip(rows, [COST_HEADINGS, *chain(*costs)], strict=True)]
    texts = align(rows, right_from=2)
    return "\n".join([*_describe(setting), "", *texts, *_compare_rankings(lines), *compare_devices(lines)])


def to_json(lines: Sequence[Line], setting: Setting) -> str:
    """Everything measured, on one line."""
    content = {
        "model": setting.model,
        "batch_size": setting.batch_size,
        "new_tokens": setting.new_tokens,
        "machine": asdict(setting.machine),
        "workloads": [_to_values(line) for line in lines],
        "failures": list_failures(lines),
        "differences": list_differences(lines),
        "is_exact": setting.is_exact,
    }
    return json.dumps(round_all(content), ensure_ascii=False)


def round_all(value: Any) -> Any:
    """Figures with as many digits as are significant."""
    if isinstance(value, dict):
        return {key: round_all(one) for key, one in value.items()}
    if isinstance(value, list):
        return [round_all(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _describe(setting: Setting) -> list[str]:
    machine = setting.machine
    where = f"{machine.device} ({machine.threads} threads)" if machine.device == "cpu" else machine.device
    lines = [
        f"{setting.model} on {where}, {machine.dtype}, batches of {setting.batch_size}, "
        f"{setting.new_tokens} new tokens an answer",
        f"this machine multiplies at {machine.matrix_flops / 1e9:,.0f} GFLOP/s and copies at "
        f"{machine.copy_bytes / 1e9:.1f} GB/s",
    ]
    reached = []
    if machine.prefill is not None:
        reached.append(
            f"prefill reaches {machine.prefill.fraction:.0%} of the former ({machine.prefill.rate / 1e9:,.0f} GFLOP/s)"
        )
    if machine.decoding is not None:
        reached.append(
            f"decoding one request {machine.decoding.fraction:.0%} of the latter "
            f"({machine.decoding.tokens_per_second:.0f} tokens/s)"
        )
    return [*lines, *([", ".join(reached)] if reached else [])]


def _rows(line: Line) -> Iterator[tuple[str, ...]]:
    title = f"{line.workload.title} ({line.images})"
    for number, (arm, outcome) in enumerate(line.outcomes.items()):
        name = title if number == 0 else ""
        if outcome.failure is not None:
            yield (name, arm, "failed", "", "", "", "", "")
            continue
        yield (
            name,
            arm,
            f"{outcome.seconds:.2f}",
            f"{line.images / outcome.seconds:.2f}",
            _show_ratio(line.compare_speed(arm, "guide")),
            _show_ratio(line.compare_speed(arm, "batch")),
            f"{_sum(outcome, 'computed_tokens')}/{_sum(outcome, 'asked_tokens')}",
            f"{outcome.peak_bytes / 1e6:.0f}",
        )


def _list_costs(line: Line) -> list[tuple[str, str]]:
    return [
        ("" if outcome.failure else f"{outcome.cpu_seconds:.2f}", _show_ratio(line.compare_cost(arm)))
        for arm, outcome in line.outcomes.items()
    ]


def _show_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _compare_rankings(lines: Sequence[Line]) -> list[str]:
    """What ten times the labels cost, where two rankings ran."""
    ranked = [
        (line.workload.labels, line.outcomes["idefics"])
        for line in lines
        if line.workload.labels and "idefics" in line.outcomes and line.outcomes["idefics"].failure is None
    ]
    return [
        f"{many} labels took {more.seconds / less.seconds:.1f} times as long as {few}, "
        f"with {(more.peak_bytes - less.peak_bytes) / 1e6:+.0f} MB"
        for (few, less), (many, more) in pairwise(ranked)
    ]


def compare_devices(lines: Sequence[Line]) -> list[str]:
    """How much of what a stand-in device could do came to it, bounded by the cores that prepare for it."""
    told = []
    for line in lines:
        outcome = line.outcomes.get("idefics")
        if line.workload.device_seconds and outcome is not None and outcome.failure is None:
            cores = count_cores()
            least = max(line.workload.device_seconds, outcome.cpu_seconds / line.images / cores)
            told.append(
                f"{line.workload.name}: {line.images / outcome.seconds:.1f} images/s, "
                f"{least * line.images / outcome.seconds:.0%} of what it and {cores} cores allow"
            )
    return told


def _to_values(line: Line) -> dict[str, Any]:
    return {
        "name": line.workload.name,
        "images": line.images,
        "arms": {arm: _to_arm(line, arm, outcome) for arm, outcome in line.outcomes.items()},
    }


def _to_arm(line: Line, arm: Arm, outcome: ArmOutcome) -> dict[str, Any]:
    if outcome.failure is not None:
        return {"failure": outcome.failure}
    return {
        "seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "images_per_second": line.images / outcome.seconds,
        "requests": len(outcome.replies),
        "over_guide": line.compare_speed(arm, "guide"),
        "over_batch": line.compare_speed(arm, "batch"),
        "over_rival_cpu": line.compare_cost(arm),
        "asked_tokens": _sum(outcome, "asked_tokens"),
        "computed_tokens": _sum(outcome, "computed_tokens"),
        "new_tokens": _sum(outcome, "new_tokens"),
        "peak_bytes": outcome.peak_bytes,
    }


def _sum(outcome: ArmOutcome, field: str) -> int:
    return sum(getattr(reply, field) for reply in outcome.replies)
