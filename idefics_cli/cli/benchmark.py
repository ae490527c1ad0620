"""What `idefics eval NAME` does: asks a benchmark's items like a batch file, resumable, and compares the rows with the
references and published values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import typer

from ..config import user_cache
from ..errors import UsageError
from ..eval.benchmarks import Benchmark, Draw, load_benchmarks, prepare
from ..eval.cases import read_rows
from .ask import ask, list_lines
from .settings import Settings


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """A benchmark that was answered, and the published values of its model."""

    benchmark: Benchmark
    rows: Path
    references: Path
    published: str


def find_benchmark(name: str) -> Benchmark | None:
    """The benchmark of this name, unless a file has the name."""
    return None if Path(name).exists() else load_benchmarks().get(name)


def run_benchmark(name: str, benchmark: Benchmark, draw: Draw, settings: Settings) -> BenchmarkRun:
    """Ask the benchmark's items that have no row yet. Raises typer.Exit if the run was interrupted."""
    if draw.without_image and not draw.shots:
        raise UsageError("--shots-without-image needs --shots", hint="add --shots 2")
    prepared = prepare(name, benchmark, draw, user_cache())
    rows = Path(settings.output.output or f"{name}.jsonl")
    try:
        kept = replace(settings, output=replace(settings.output, output=str(rows)))
        ask(list_lines(str(prepared.items), kept), kept)
    except typer.Exit as ended:
        if ended.exit_code != 1:  # failed items count as wrong
            raise
    model = next((str(row.get("model")) for row, _ in read_rows(rows)), "")
    value = benchmark.published.get(model, {}).get(draw.name)
    what = "nothing" if value is None else f"{value:g}"
    published = f"{what} is published for {model} (shots: {draw.name}; {benchmark.source})"
    return BenchmarkRun(benchmark, rows, prepared.references, published)
