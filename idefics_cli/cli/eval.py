"""What `idefics eval` does: measure, print the table or the JSON document, and exit with 1 below --fail-under.

Imported when the command runs, never for `--help`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from ..config import user_cache
from ..errors import UsageError
from ..eval.benchmarks import Draw, load_benchmarks
from ..eval.evaluate import EvalPlan, evaluate, read_least
from ..eval.plot import draw_scores
from ..eval.references import find_references
from ..eval.report import Evaluation, list_details, list_fallen, list_rows, list_worst, to_json
from ..files import write_file
from ..review.lines import parse_row
from ..review.session import ReviewSession
from .arguments import check_plot
from .benchmark import BenchmarkRun, find_benchmark, run_benchmark
from .output import emit, emit_table, one_line, say
from .review import serve_page
from .settings import Settings


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """The command's own options."""

    paths: tuple[Path, ...]
    references: Path | None
    metrics: tuple[str, ...]
    by: str | None
    positive: str | None
    worst: int
    review: bool
    fail_under: tuple[str, ...]
    plot: Path | None
    json: bool
    draw: Draw


def evaluate_rows(wanted: EvalOptions, settings: Settings) -> None:
    """Measure and print. Raises typer.Exit(1) when a value is below --fail-under."""
    least = read_least(wanted.fail_under)
    if wanted.review and not wanted.worst:
        raise UsageError("--review shows the rows of --worst", hint="add --worst 20")
    if wanted.plot is not None:
        check_plot(wanted.plot)
    run = _run_benchmark(wanted, settings)
    output = settings.output.output if run is None else None
    if output is not None and not wanted.worst:
        raise UsageError("--output keeps the rows of --worst", hint="add --worst 20")
    if run is not None:
        wanted = replace(
            wanted,
            paths=(run.rows,),
            references=run.references,
            metrics=wanted.metrics or (run.benchmark.metric,),
            positive=wanted.positive or run.benchmark.positive,
        )
    evaluation = evaluate(
        EvalPlan(
            wanted.paths,
            wanted.references or find_references(wanted.paths[0]),
            wanted.metrics,
            wanted.by,
            wanted.worst,
            wanted.positive,
            tuple(least),
        )
    )
    if wanted.json:
        emit(json.dumps(to_json(evaluation), ensure_ascii=False))
    else:
        _print_tables(evaluation)
    for note in (*evaluation.notes, *([run.published] if run is not None else [])):
        settings.talk.note(note)
    if output is not None:
        _keep_worst(evaluation, Path(output))
        settings.talk.note(f"`idefics review {output}` shows these rows")
    if wanted.plot is not None:
        draw_scores(evaluation.findings, wanted.plot)
    fallen = list_fallen(evaluation.findings, least)
    for sentence in fallen:
        say(sentence)
    if wanted.review:
        _review_worst(evaluation, wanted.paths[0], settings)
    if fallen:
        raise typer.Exit(1)


def _run_benchmark(wanted: EvalOptions, settings: Settings) -> BenchmarkRun | None:
    """Ask a benchmark, if one is named. None for files of rows."""
    first = wanted.paths[0]
    benchmark = find_benchmark(str(first)) if len(wanted.paths) == 1 else None
    if benchmark is not None:
        if wanted.references is not None:
            raise UsageError(f"{first} has its own references", hint="leave --references out")
        return run_benchmark(str(first), benchmark, wanted.draw, settings)
    if wanted.draw != Draw():
        raise UsageError(
            "--shots, --limit and --data are for a benchmark",
            hint=f"name one of {', '.join(load_benchmarks())}",
        )
    if not first.exists():
        raise UsageError(
            f"{first} is neither a file of rows nor a benchmark",
            hint=f"benchmarks: {', '.join(load_benchmarks())}",
        )
    return None


def _print_tables(evaluation: Evaluation) -> None:
    tables = [list_rows(evaluation)]
    first = evaluation.findings[0].file
    for finding in evaluation.findings:
        if finding.file == first and not finding.group:
            tables += list_details(finding)
    if evaluation.worst:
        tables.append(list_worst(evaluation))
    for place, table in enumerate(tables):
        if place > 0:
            emit("")
        emit_table([tuple(map(one_line, row)) for row in table], has_head=True)


def _keep_worst(evaluation: Evaluation, path: Path) -> None:
    try:
        write_file(path, b"".join(case.line + b"\n" for _, case in evaluation.worst))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _review_worst(evaluation: Evaluation, rows: Path, settings: Settings) -> None:
    """Open the worst rows in the browser, to correct them in their file."""
    keys = [parse_row(case.line).get("key") for _, case in evaluation.worst]
    who = [
        (case.id, key if isinstance(key, str) else "") for (_, case), key in zip(evaluation.worst, keys, strict=True)
    ]
    serve_page(ReviewSession([rows], user_cache(), who), settings.talk)
