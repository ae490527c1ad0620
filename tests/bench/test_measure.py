"""The arms answer alike on every architecture, and a measurement stands alone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from idefics_cli.bench import photos
from idefics_cli.bench.lines import Line, compare_devices, compare_waits, list_differences
from idefics_cli.bench.measure import ARMS, Arm, ArmJob, ArmOutcome, measure
from idefics_cli.bench.subprocess import run_in_child
from idefics_cli.bench.workloads import WORKLOADS, Workload
from idefics_cli.errors import AnswerError, ModelError
from idefics_cli.values import ModelSpec
from tests.models.tiny import KINDS, checkpoint

FEW = Workload("few", "a few labels", 2, labels=5)
SHOTS = Workload("shots", "captions, 2 shots", 3, shots=2)


def job_of(kind: str, workload: Workload, arm: Arm = "idefics", batch_size: int = 4) -> ArmJob:
    return ArmJob(ModelSpec(str(checkpoint(kind))), workload, arm, workload.images, 4, batch_size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workload", [SHOTS, FEW], ids=lambda workload: workload.name)
def test_the_arms_agree_on_every_architecture(kind: str, workload: Workload) -> None:
    outcomes = {arm: measure(job_of(kind, workload, arm)) for arm in ARMS}
    assert [outcome.failure for outcome in outcomes.values()] == [None] * len(ARMS)
    assert list_differences([Line(workload, workload.images, outcomes)]) == []
    asked = [[reply.asked_tokens for reply in outcome.replies] for outcome in outcomes.values()]
    assert all(one == asked[0] for one in asked)
    guide, engine = (sum(r.computed_tokens for r in outcomes[arm].replies) for arm in ("guide", "idefics"))
    assert engine < guide


def test_a_measurement_in_a_child_is_the_same_and_tells_its_peak() -> None:
    job = job_of("idefics-resampler", SHOTS)
    outcome = run_in_child(measure, job)
    assert outcome.replies == measure(job).replies
    assert outcome.seconds > 0
    assert 50e6 < outcome.peak_bytes < 5e9


def end_without_a_word(job: ArmJob) -> ArmOutcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return ArmOutcome()


def test_a_child_that_the_system_ends_and_a_model_that_cannot_be_opened_are_one_line() -> None:
    job = job_of("idefics", SHOTS)
    with pytest.raises(AnswerError, match="signal 9; it ran out of memory"):
        run_in_child(end_without_a_word, job)
    with pytest.raises(ModelError, match="there is no folder /nowhere"):
        run_in_child(measure, replace(job, spec=ModelSpec("/nowhere")))


def test_what_does_not_fit_is_a_failure_of_the_arm_alone() -> None:
    workload = replace(WORKLOADS["caption-8"], shots=60)
    outcome = measure(replace(job_of("idefics", workload), images=1))
    assert outcome.failure is not None
    assert "the model has room for 512" in outcome.failure


def test_a_row_of_a_fixed_batch_waits_for_the_longest() -> None:
    workload = replace(WORKLOADS["one-long"], images=6)
    arms: tuple[Arm, ...] = ("fixed", "idefics")
    outcomes = {arm: measure(job_of("smolvlm", workload, arm, 2)) for arm in arms}
    line = Line(workload, workload.images, outcomes)
    assert list_differences([line]) == []
    assert line.compare_speed("idefics", "fixed") is not None
    (long, *short), (own_long, *own_short) = ([reply.seconds for reply in outcomes[arm].replies] for arm in arms)
    assert long <= min(short)
    assert own_long > max(own_short)
    (told,) = compare_waits([line])
    assert told.startswith("one-long: 5 of 5 short answers came before the long one, half of them after ")


def test_photos_are_read_while_the_clock_runs_and_the_arms_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "SIZES", ((400, 300), (64, 48)))
    workload = replace(WORKLOADS["photos"], images=3)
    outcomes = {arm: measure(job_of("idefics3", workload, arm)) for arm in ARMS}
    assert [outcome.failure for outcome in outcomes.values()] == [None] * len(ARMS)
    assert list_differences([Line(workload, workload.images, outcomes)]) == []
    assert all(outcome.cpu_seconds > 0 for outcome in outcomes.values())


def test_a_stand_in_device_is_told_how_busy_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "SIZES", ((64, 48),))
    workload = replace(WORKLOADS["device"], images=6)
    outcome = measure(job_of("idefics3", workload))
    assert outcome.failure is None
    assert outcome.seconds >= 6 * workload.device_seconds
    (told,) = compare_devices([Line(workload, workload.images, {"idefics": outcome})])
    assert told.startswith("device: ")
    assert "% of what it and" in told
