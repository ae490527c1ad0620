"""How long a large run will take, and what limits it: the rate of each step, of which the slowest is the rate of the
run.

Arithmetic on measured rates and published figures of cards; reading and preparing images and writing rows are measured
here.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..backends import Outcome, PreparedRequest, Preview, Reading
from ..backends.backend import TakePrepared
from ..errors import ItemError, to_item_error
from ..files import read_file
from ..images import Limits, decode, read
from ..jsonl import dump_row
from ..models.dimensions import Dimensions
from ..models.memory.estimate import Precision
from ..models.memory.speed import Rates, estimate_seconds
from ..runner.prefetch import FETCHERS
from ..runner.run import Report, run
from ..values import Answer, Image, Item, Message, ModelSpec, Request, Style, TextPart

SAMPLE = 16
"""Images that are read to see how fast that is."""
DRIVER_ITEMS = 2000
PREPARE_SECONDS_A_PIXEL = 1.5e-8
"""To make a processor's input of a decoded image, on one core: resizing and normalising it."""
BATCH = 32
"""Requests a GPU answers at a time, among which the reading of the weights is shared."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run, how many images it does in a second, and the source of that figure."""

    name: str
    each_second: float
    source: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """The expected time of a run."""

    items: int
    workers: int
    steps: tuple[Step, ...]

    @property
    def bottleneck(self) -> Step:
        return min(self.steps, key=lambda step: step.each_second)

    @property
    def hours(self) -> float:
        return self.items / self.bottleneck.each_second / 3600


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """The seconds of an image: to fetch it, and on one core to decode and prepare it; None if none could be read."""

    fetch_seconds: float | None
    prepare_seconds: float | None
    count: int = 0
    first_failure: ItemError | None = None


def forecast(items: int, workers: int, cores: int, measured: ImageTimes, model: Step, driver: float) -> Forecast:
    """The rates of all steps with so many workers and cores each. `model` is the rate of one worker."""
    said = f"{measured.count} of them read here"
    steps = []
    if measured.fetch_seconds is not None:
        rate = workers * FETCHERS / measured.fetch_seconds
        steps.append(Step("fetch", rate, f"{measured.fetch_seconds:.2g} s each, {said}"))
    if measured.prepare_seconds is not None:
        rate = workers * cores / measured.prepare_seconds
        steps.append(
            Step(
                "preparation",
                rate,
                f"{measured.prepare_seconds:.2g} s each on a core, {cores} cores a worker, {said}",
            )
        )
    steps += [
        Step("model", workers * model.each_second, model.source),
        Step("driver", driver, "measured here, without a model"),
    ]
    return Forecast(items, workers, tuple(steps))


def measure_images(sources: Sequence[str], limits: Limits) -> ImageTimes:
    """Read some images as a run would."""
    fetched: list[float] = []
    prepared: list[float] = []
    failures: list[ItemError] = []

    def fetch(source: str) -> None:
        try:
            began = time.perf_counter()
            data = read(source, limits)
            content = data if isinstance(data, bytes) else _read_file(data, limits)
            if isinstance(content, bytes):
                fetched.append(time.perf_counter() - began)
            began = time.thread_time()
            image = decode(content, source, limits)
            size = image.pixels.width * image.pixels.height
            prepared.append(time.thread_time() - began + size * PREPARE_SECONDS_A_PIXEL)
        except BaseException as error:
            failures.append(to_item_error(error))

    with ThreadPoolExecutor(len(sources) or 1) as threads:
        list(threads.map(fetch, sources))
    return ImageTimes(
        _mean(fetched), _mean(prepared), len(prepared), failures[0] if failures and not prepared else None
    )


def read_model_step(rows: Iterator[Mapping[str, object]], name: str) -> Step | None:
    """How fast one worker was, from its rows; None if none has the time."""
    seconds = [
        float(taken)
        for row in rows
        if row.get("error") is None and isinstance(taken := row.get("seconds"), int | float) and taken > 0
    ]
    return Step("model", 1 / (mean or 1.0), f"{len(seconds):,} rows of {name}") if (mean := _mean(seconds)) else None


def estimate_model_step(
    dimensions: Dimensions, precision: Precision, rates: Rates, detail: str | None, on: str
) -> Step:
    """How fast one worker should be, by the arithmetic of its device."""
    seconds = estimate_seconds(dimensions, precision, rates, detail, rows=BATCH)
    return Step("model", 1 / seconds, f"computed for {on} in {precision.label}, 20 tokens; --rows of a run are surer")


def measure_driver() -> float:
    """How many rows a second this process writes if answers cost nothing."""
    items = [Item(str(number), task="caption", key=str(number)) for number in range(DRIVER_ITEMS)]
    request = Request("", "caption", (Message("document", (TextPart("A"),)),))
    began = time.perf_counter()
    for result in run(items, lambda item: request, StubBackend(), Report("stub"), limits=Limits()):
        dump_row(result.to_row())
    return DRIVER_ITEMS / (time.perf_counter() - began)


class StubBackend:
    """Answers at once, always the same."""

    style: Style = "completion"
    revision: str | None = None
    spec = ModelSpec("stub")
    capacity = 512

    def reads(self, source: str) -> Reading:
        return "there"

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        return PreparedRequest(request, None)

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        while (taken := take(self.capacity, True)) is not None:
            yield from ((one, Answer("a red circle")) for one in taken)

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        return [Answer("a red circle") for _ in requests]

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return Preview("")

    def close(self) -> None:
        pass


def count_cores() -> int:
    return os.cpu_count() or 1


def _read_file(path: Path, limits: Limits) -> bytes | Path:
    """The bytes of a file; an error is left to the decoder."""
    with contextlib.suppress(OSError):
        return read_file(path, limits.max_bytes)
    return path


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
