"""From the words of `idefics bench` to its table: which checkpoint, which jobs, and whether the arms agree.

Imported when the command runs, never for `--help`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from ..backends import DEFAULT_BATCH_SIZE
from ..bench.architectures import (
    COMPARED,
    COMPARED_IMAGES,
    COMPARED_WORKLOADS,
    ArchitectureLines,
    list_architecture_problems,
    tabulate_architectures,
    to_architectures_json,
)
from ..bench.corpus import list_corpus
from ..bench.lines import Line, list_differences, list_failures
from ..bench.measure import ARMS, RIVALS, Arm, ArmJob, ArmOutcome, count_threads, measure
from ..bench.plot import draw_plot
from ..bench.report import Setting, tabulate, to_json
from ..bench.subprocess import Runs, run_in_child
from ..bench.workloads import WORKLOADS, Workload
from ..config import Model
from ..errors import AnswerError, ModelError, UsageError
from ..models.libraries import import_libraries
from ..values import ModelSpec
from .arguments import check_plot
from .model_choice import choose_model, choose_spec
from .output import Talk, emit, emit_folded, say
from .settings import Settings

DEFAULT_NEW_TOKENS = 10
DEFAULT_WEIGHTS = "small"
DECODED_TOKENS, DECODED_ROWS = 64, 16

run_with: ContextVar[Runs] = ContextVar("run_with", default=run_in_child)
"""How measurements run in this context: each in a child process, unless a program sets its own way."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The command's own options."""

    workloads: tuple[str, ...]
    arms: tuple[str, ...]
    images: int | None
    repeat: int
    plot: str | None
    random_weights: str | None
    decoding: bool
    architectures: tuple[str, ...] = ()
    rival: str | None = None
    rival_python: str | None = None


def run_bench(wanted: BenchOptions, settings: Settings) -> None:
    """Measure, print the table and the JSON line. Raises typer.Exit(1) when an arm failed or the arms disagree."""
    talk = settings.talk
    if wanted.decoding:
        _run_decoding(wanted, settings)
        return
    if wanted.architectures:
        _run_architectures(wanted, settings)
        return
    _check_names("workload", wanted.workloads, WORKLOADS)
    _check_names("arm", wanted.arms, ARMS)
    _check_names("rival", (wanted.rival,) if wanted.rival else (), RIVALS)
    plot = Path(wanted.plot) if wanted.plot is not None else None
    if plot is not None:
        check_plot(plot)
    import_libraries()
    from ..bench.rival import check_rival
    from ..bench.roofline import probe

    if wanted.rival is not None:
        if settings.model.quantization is not None or settings.model.four_bit:
            raise UsageError("--rival compares whole weights", hint="leave out --quantize and --4bit")
        check_rival(wanted.rival_python or sys.executable)
    elif wanted.rival_python is not None:
        raise UsageError("--rival-python is for --rival", hint="add --rival vllm")

    workloads = [one for name, one in WORKLOADS.items() if name in (wanted.workloads or WORKLOADS)]
    with _choose_checkpoint(wanted, settings) as model:
        jobs = {workload.name: _list_jobs(workload, model, wanted, settings) for workload in workloads}
        first = next((job for listed in jobs.values() for job in listed), None)
        if first is None:
            raise UsageError("only idefics can run that workload", hint="add --arm idefics")
        talk.note("measuring the machine")
        machine = run_with.get()(probe, first)
        lines = [
            Line(
                workload,
                jobs[workload.name][0].images,
                _measure_all(jobs[workload.name], wanted.repeat, talk),
            )
            for workload in workloads
            if jobs[workload.name]
        ]
    setting = Setting(model.name, machine, first.batch_size, first.new_tokens)
    for line in tabulate(lines, setting).splitlines():
        emit_folded(line)
    if plot is not None:
        draw_plot(lines, f"{model.name}, {machine.device}, {machine.dtype}", plot)
    failures, differences = list_failures(lines), list_differences(lines)
    for sentence in (*failures, *differences):
        say(sentence)
    if differences and not setting.is_exact:
        say(f"{machine.dtype} rounding depends on the batch: only --dtype float32 shows whether the arms agree")
    emit(to_json(lines, setting))
    if failures or (differences and setting.is_exact):
        raise typer.Exit(1)


def _run_decoding(wanted: BenchOptions, settings: Settings) -> None:
    """Measure decoding alone, print its table and its JSON line."""
    if wanted.workloads or wanted.arms or wanted.images or wanted.plot or wanted.rival:
        raise UsageError("--decoding takes no --workload, --arm, --images, --rival or --plot", hint="leave them out")
    import_libraries()
    from ..bench.decoding import measure_decoding, tabulate_decoding, to_json
    from ..bench.roofline import PROBE
    from ..models.devices import is_there

    if not is_there(settings.model.device or "auto"):
        raise ModelError(
            f"there is no GPU for --device {settings.model.device} here", hint="this measurement needs one"
        )
    with _choose_checkpoint(wanted, settings) as model:
        job = ArmJob(
            choose_spec(model, settings),
            PROBE,
            "idefics",
            images=1,
            new_tokens=settings.decoding.max_new_tokens or DECODED_TOKENS,
            batch_size=settings.decoding.batch_size or DECODED_ROWS,
            cache_bytes=settings.cache_bytes,
        )
        runs = [run_with.get()(measure_decoding, job) for _ in range(wanted.repeat)]
    best = max(runs, key=lambda run: run.speeds[-1].tokens_per_second)
    for line in tabulate_decoding(model.name, best).splitlines():
        emit_folded(line)
    emit(to_json(model.name, best))


def _run_architectures(wanted: BenchOptions, settings: Settings) -> None:
    """Measure small random weights of each architecture, print their table and the JSON line."""
    from ..models.families import find_way
    from ..models.random.checkpoint import find_architecture, list_architectures

    if wanted.arms or wanted.plot or wanted.rival or wanted.random_weights or settings.model.model:
        raise UsageError(
            "--architecture takes no --arm, --plot, --rival, --random-weights or --model",
            hint="leave them out",
        )
    known = list_architectures()
    _check_names("architecture", wanted.architectures, ["all", *known])
    _check_names("workload", wanted.workloads, WORKLOADS)
    import_libraries()
    measured = []
    for name in known if "all" in wanted.architectures else wanted.architectures:
        settings.talk.note(f"measuring {name}")
        own = replace(wanted, arms=COMPARED, images=wanted.images or COMPARED_IMAGES, random_weights=known[name])
        with _choose_checkpoint(own, settings) as model:
            lines = []
            for workload in wanted.workloads or COMPARED_WORKLOADS:
                jobs = _list_jobs(WORKLOADS[workload], model, own, settings)
                outcomes = _measure_all(jobs, wanted.repeat, settings.talk)
                lines.append(Line(WORKLOADS[workload], jobs[0].images, outcomes))
        measured.append(ArchitectureLines(name, find_way(find_architecture(name)), tuple(lines)))
    common = jobs[0].batch_size, jobs[0].new_tokens, count_threads()
    for line in tabulate_architectures(measured, *common).splitlines():
        emit_folded(line)
    failures, differences = list_architecture_problems(measured)
    for sentence in (*failures, *differences):
        say(sentence)
    emit(to_architectures_json(measured, *common))
    if failures or differences:
        raise typer.Exit(1)


def _check_names(kind: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"there is no {kind} {name!r}", hint=f"known: {', '.join(known)}")


@contextmanager
def _choose_checkpoint(wanted: BenchOptions, settings: Settings) -> Iterator[Model]:
    """The checkpoint named, or a temporary folder of random weights, removed after the measurements."""
    if settings.model.model is not None and wanted.random_weights is None:
        yield choose_model(settings)
        return
    from ..models.loading import open_family
    from ..models.random.checkpoint import write_checkpoint, write_weights

    name = wanted.random_weights or DEFAULT_WEIGHTS
    if wanted.random_weights is None:
        settings.talk.note(f"measuring random weights ({name}); --model measures a checkpoint")
    elif settings.model.model is not None:
        settings.talk.note(f"--random-weights {name} is measured instead of {settings.model.model}")
    with tempfile.TemporaryDirectory(prefix="idefics-bench-") as folder:
        write_checkpoint(name, Path(folder), list_corpus())
        if wanted.rival is not None:
            write_weights(open_family(ModelSpec(folder)), Path(folder))
        yield Model(f"{name} (random weights)", folder)


def _list_jobs(workload: Workload, model: Model, wanted: BenchOptions, settings: Settings) -> list[ArmJob]:
    spec = choose_spec(model, settings)
    return [
        ArmJob(
            spec,
            workload,
            arm,
            images=wanted.images or workload.images,
            new_tokens=settings.decoding.max_new_tokens or DEFAULT_NEW_TOKENS,
            batch_size=settings.decoding.batch_size or DEFAULT_BATCH_SIZE,
            cache_bytes=settings.cache_bytes,
            rival_python=wanted.rival_python or sys.executable,
        )
        for arm in (*(wanted.arms or ARMS), *((wanted.rival,) if wanted.rival else ()))
        if _runs(arm, workload, is_asked=arm in wanted.arms)
    ]


def _runs(arm: str, workload: Workload, *, is_asked: bool) -> bool:
    """Whether an arm can run a workload, and tells something; vLLM reads no files while the clock runs.

    Fixed batches are others where answers are of different length, and where photos are read between them; the loop
    has none.
    """
    is_alike = workload.answers == "alike"
    if not is_asked and ((arm == "fixed" and is_alike and not workload.is_read) or (arm == "guide" and not is_alike)):
        return False
    return arm == "idefics" or (workload.compared and not (arm in RIVALS and workload.is_read))


def _measure_all(jobs: Sequence[ArmJob], repeat: int, talk: Talk) -> dict[Arm, ArmOutcome]:
    """Each arm's fastest run; the arms take turns, so that other load on the machine affects them all."""
    outcomes: dict[Arm, ArmOutcome] = {}
    for job in [*jobs] * repeat:
        try:
            outcome = run_with.get()(measure, job)
        except AnswerError as error:
            outcome = ArmOutcome(failure=str(error))
        told = outcome.failure or f"{outcome.seconds:.1f} s"
        talk.note(f"{job.workload.name}, {job.arm}: {told}")
        before = outcomes.get(job.arm)
        if before is None or before.failure or (not outcome.failure and outcome.seconds < before.seconds):
            outcomes[job.arm] = outcome
    return outcomes
