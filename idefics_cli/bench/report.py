"""The measured values, for people and for programs: a table, one JSON line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..figures import align
from .lines import (
    Line,
    compare_devices,
    compare_rankings,
    compare_waits,
    list_differences,
    list_failures,
)
from .measure import Arm, ArmOutcome

if TYPE_CHECKING:
    from .roofline import Machine

COST_HEADINGS = ("x rival's CPU s",)
HEADINGS = (
    *("workload", "arm", "seconds", "CPU s", "images/s"),
    *("x guide", "x batch", "x fixed"),
    *("prompt tokens", "peak MB"),
)


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


def tabulate(lines: Sequence[Line], setting: Setting) -> str:
    """The table for people."""
    rows = [HEADINGS, *(row for line in lines for row in _rows(line))]
    if any(line.rival for line in lines):
        costs = [_list_costs(line) for line in lines]
        rows = [(*row, *more) for row, more in zip(rows, [COST_HEADINGS, *chain(*costs)], strict=True)]
    texts = align(rows, right_from=2)
    told = [*compare_rankings(lines), *compare_devices(lines), *compare_waits(lines)]
    return "\n".join([*_describe(setting), "", *texts, *told])


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
        f"{machine.copy_bytes / 1e9:.1f} GB/s"
        + ("" if machine.load is None else f"; its load was {machine.load:.1f} before"),
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
            yield (name, arm, "failed", *("" for _ in HEADINGS[3:]))
            continue
        yield (
            name,
            arm,
            f"{outcome.seconds:.2f}",
            f"{outcome.cpu_seconds:.2f}",
            f"{line.images / outcome.seconds:.2f}",
            _show_ratio(line.compare_speed(arm, "guide")),
            _show_ratio(line.compare_speed(arm, "batch")),
            _show_ratio(line.compare_speed(arm, "fixed")),
            f"{outcome.sum('computed_tokens')}/{outcome.sum('asked_tokens')}",
            f"{outcome.peak_bytes / 1e6:.0f}",
        )


def _list_costs(line: Line) -> list[tuple[str]]:
    return [(_show_ratio(line.compare_cost(arm)),) for arm in line.outcomes]


def _show_ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


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
        "over_fixed": line.compare_speed(arm, "fixed"),
        "over_rival_cpu": line.compare_cost(arm),
        "asked_tokens": outcome.sum("asked_tokens"),
        "computed_tokens": outcome.sum("computed_tokens"),
        "new_tokens": outcome.sum("new_tokens"),
        "peak_bytes": outcome.peak_bytes,
    }
