"""What `idefics plan` does: counts the images, reads a few of them, and prints how long all of them will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bench.forecast import (
    SAMPLE,
    Forecast,
    Step,
    count_cores,
    estimate_model_step,
    forecast,
    measure_driver,
    measure_images,
    read_model_step,
)
from ..config import resolve_model
from ..errors import BadItem, NothingToDo, UsageError
from ..figures import align
from ..jsonl import dump_row, parse_line, read_lines
from ..models.hub.catalog import describe
from ..models.memory.available import find_pools
from ..models.memory.speed import CARDS, find_rates
from .auto_model import choose_fitting, make_constraints
from .formats import refuse_tables
from .inputs import list_sources
from .output import emit
from .settings import Settings


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The command's own options."""

    workers: int
    gpu: str | None
    cores: int | None
    count: int | None
    rows: str | None


def print_plan(images: Sequence[str], wanted: PlanOptions, settings: Settings) -> None:
    """Print the forecast. Raises NothingToDo if there are no images to count or read."""
    refuse_tables(settings.output.format)
    sample, listed = _list(images, settings)
    items = wanted.count or listed
    if not items:
        raise NothingToDo("no images given", hint="name some, or --count N of them")
    measured = measure_images(sample, settings.limits)
    if measured.first_failure is not None:
        settings.talk.note(f"none of {len(sample)} images could be read ({measured.first_failure})")
    made = forecast(
        items,
        wanted.workers,
        wanted.cores or count_cores(),
        measured,
        _find_model_step(wanted, settings),
        measure_driver(),
    )
    if settings.output.format == "jsonl":
        emit(dump_row(_to_row(made)))
        return
    lines = [("images", f"{items:,}", f"{wanted.workers:,} worker{'s' * (wanted.workers > 1)}")]
    lines += [(step.name, f"{_round(step.each_second)}/s", step.source) for step in made.steps]
    lines.append(
        (
            "in all",
            f"{_round(made.bottleneck.each_second)}/s",
            f"{_describe_hours(made.hours)}; the {made.bottleneck.name} is what it waits for",
        )
    )
    for line in align(lines):
        emit(line)


def _list(images: Sequence[str], settings: Settings) -> tuple[list[str], int]:
    """Images to read, from the whole list, and its length."""
    sample: list[str] = []
    count, step = 0, 1
    for source in list_sources(images, settings.input):
        if count % step == 0:
            sample.append(source)
            if len(sample) == 2 * SAMPLE:
                sample, step = sample[::2], 2 * step
        count += 1
    return sample[:SAMPLE], count


def _find_model_step(wanted: PlanOptions, settings: Settings) -> Step:
    if wanted.rows is not None:
        step = read_model_step(_read_rows(wanted.rows), wanted.rows)
        if step is None:
            raise UsageError(f"no row of {wanted.rows} tells how long it took", hint="name rows of idefics")
        return step
    if wanted.gpu is not None and wanted.gpu.lower() not in CARDS:
        raise UsageError(
            f"--gpu {wanted.gpu} is not known",
            hint=f"write one of {', '.join(CARDS)}, or give the --rows of a run on it",
        )
    model = resolve_model(settings.model.model) if settings.model.model else choose_fitting(settings)
    dimensions = describe(model, settings.model.revision).dimensions
    if dimensions is None:
        raise UsageError(f"the size of {model.name} is not known", hint="give the --rows of a run with it")
    has_card = any(pool.kind == "gpu" for pool in find_pools())
    kind = "gpu" if wanted.gpu is not None or has_card else "ram"
    precision = make_constraints(settings).list_precisions(kind)[0]
    rates = CARDS[wanted.gpu.lower()] if wanted.gpu is not None else find_rates(kind)
    where = wanted.gpu or ("a slow GPU" if has_card else "this CPU")
    return estimate_model_step(dimensions, precision, rates, settings.model.detail, f"{model.name} on {where}")


def _read_rows(path: str) -> Iterator[dict[str, Any]]:
    try:
        with Path(path).open("rb") as stream:
            for _, line in read_lines(stream):
                yield parse_line(line)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except BadItem as error:
        raise UsageError(f"{path} has lines that are no rows ({error})") from error


def _to_row(made: Forecast) -> dict[str, Any]:
    return {
        **{"images": made.items, "workers": made.workers},
        "steps": [asdict(step) for step in made.steps],
        "images_per_second": made.bottleneck.each_second,
        "hours": made.hours,
        "bottleneck": made.bottleneck.name,
    }


def _round(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _describe_hours(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
