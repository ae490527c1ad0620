"""The table of the architectures: many questions and many labels, by the guide's loop and by this program in turn.

Pure. Ratios are of wall time and of processor time, as other programs may run meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..figures import align
from .lines import Line, list_differences, list_failures
from .measure import Arm, ArmOutcome
from .report import round_all

COMPARED: tuple[Arm, ...] = ("guide", "idefics")
COMPARED_WORKLOADS = ("questions", "rank-20")
COMPARED_IMAGES = 1
HEADINGS = (
    *("architecture", "run as", "workload", "guide s", "idefics s", "x guide", "x in CPU seconds"),
    "prompt tokens",
)


@dataclass(frozen=True, slots=True)
class ArchitectureLines:
    """An architecture, how its requests are run, and its workloads."""

    name: str
    way: str
    lines: tuple[Line, ...]


def tabulate_architectures(
    measured: Sequence[ArchitectureLines], batch_size: int, new_tokens: int, threads: int
) -> str:
    """One row a workload, below what all have in common."""
    said = (
        f"small random weights on cpu ({threads} threads), float32, batches of {batch_size}, "
        f"{new_tokens} new tokens an answer"
    )
    rows = [row for one in measured for row in _rows(one)]
    return "\n".join([said, "", *align([HEADINGS, *rows], right_from=3)])


def list_architecture_problems(measured: Sequence[ArchitectureLines]) -> tuple[list[str], list[str]]:
    """What failed and what differed, by architecture."""
    failures = [f"{one.name}, {said}" for one in measured for said in list_failures(one.lines)]
    return failures, [f"{one.name}, {said}" for one in measured for said in list_differences(one.lines)]


def to_architectures_json(measured: Sequence[ArchitectureLines], batch_size: int, new_tokens: int, threads: int) -> str:
    """Everything measured, on one line."""
    failures, differences = list_architecture_problems(measured)
    content = {
        "batch_size": batch_size,
        "new_tokens": new_tokens,
        "threads": threads,
        "architectures": [
            {
                "name": one.name,
                "run_as": one.way,
                "workloads": [{"name": line.workload.name, **_to_values(line)} for line in one.lines],
            }
            for one in measured
        ],
        "failures": failures,
        "differences": differences,
    }
    return json.dumps(round_all(content), ensure_ascii=False)


def _rows(one: ArchitectureLines) -> list[tuple[str, ...]]:
    made = []
    for number, line in enumerate(one.lines):
        names = (one.name, one.way) if number == 0 else ("", "")
        title = f"{line.workload.title} ({line.images})"
        guide, ours = (_find(line.outcomes, arm) for arm in COMPARED)
        made.append(
            (
                *(*names, title, *(_show(None if arm is None else arm.seconds) for arm in (guide, ours))),
                *(_show(ratio) for ratio in _compare(guide, ours)),
                "" if ours is None else f"{ours.sum('computed_tokens')}/{ours.sum('asked_tokens')}",
            )
        )
    return made


def _find(outcomes: Mapping[Arm, ArmOutcome], arm: Arm) -> ArmOutcome | None:
    """The measurement of an arm; None if it failed."""
    found = outcomes.get(arm)
    return None if found is None or found.failure is not None else found


def _compare(guide: ArmOutcome | None, ours: ArmOutcome | None) -> tuple[float | None, float | None]:
    """How many times more seconds the guide took, in wall time and in processor time."""
    if guide is None or ours is None:
        return None, None
    return guide.seconds / ours.seconds, guide.cpu_seconds / max(ours.cpu_seconds, 1e-9)


def _to_values(line: Line) -> dict[str, Any]:
    guide, ours = (_find(line.outcomes, arm) for arm in COMPARED)
    over, over_cpu = _compare(guide, ours)
    arms = {
        arm: None if one is None else {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds}
        for arm, one in zip(COMPARED, (guide, ours), strict=True)
    }
    return {"images": line.images, "arms": arms, "over_guide": over, "over_guide_cpu": over_cpu}


def _show(value: float | None) -> str:
    return "failed" if value is None else f"{value:.2f}"
