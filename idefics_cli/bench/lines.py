"""A workload with the outcomes of its arms, and what they tell: ratios, differences, a sentence where a table has none.

Pure. The arms agree when every text is the same and no score differs by more than `TOLERANCE`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .measure import RIVALS, Arm, ArmOutcome
from .photos import count_cores
from .workloads import Workload

TOLERANCE = 1e-4


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


def compare_rankings(lines: Sequence[Line]) -> list[str]:
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
    """How much of what a stand-in device could do came to it, bounded by the cores that were free to prepare for it."""
    told = []
    for line in lines:
        outcome = line.outcomes.get("idefics")
        if line.workload.device_seconds and outcome is not None and outcome.failure is None:
            cores = outcome.free_cores
            least = max(line.workload.device_seconds, outcome.cpu_seconds / line.images / cores)
            told.append(
                f"{line.workload.name}: {line.images / outcome.seconds:.1f} images/s, "
                f"{least * line.images / outcome.seconds:.0%} of what it and {cores:.1f} free cores of "
                f"{count_cores()} allow"
            )
    return told


def compare_waits(lines: Sequence[Line]) -> list[str]:
    """When the short answers were there that began beside a long one."""
    told = []
    for line in lines:
        outcome = line.outcomes.get("idefics")
        if line.workload.answers == "one long" and outcome is not None and outcome.failure is None:
            long, *short = (reply.seconds for reply in outcome.replies)
            told.append(
                f"{line.workload.name}: {sum(one < long for one in short)} of {len(short)} short answers came before "
                f"the long one, half of them after {statistics.median(short or [long]) / long:.0%} of its time"
            )
    return told
