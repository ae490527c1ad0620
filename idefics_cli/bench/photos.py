"""Workloads with photos in files: read one after the other by the scripts, ahead of the model here.

Also a simulated fast device: it sleeps instead of computing, so that only the preparation is measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import PIL.Image

from ..backends import (
    DEFAULT_BATCH_SIZE,
    WINDOW_BATCHES,
    Backend,
    Outcome,
    PreparedRequest,
    Preview,
    StreamingBackend,
)
from ..backends.backend import TakePrepared
from ..errors import BadItem
from ..images import Limits, decode
from ..rows import Result
from ..runner.run import Report, run
from ..values import Answer, Image, Item, ModelSpec, Request, Style

SIZES = ((4000, 3000), (640, 480))
"""Large and small photos in turn."""
QUALITY = 90


class PhotoFiles(Mapping[str, Image]):
    """Photos by the names of their files, decoded again at each access."""

    def __init__(self, images: Mapping[str, Image], *, are_large: bool) -> None:
        """Write images to files of their names."""
        self._names = list(images)
        for index, (name, image) in enumerate(images.items()):
            size = SIZES[0] if are_large else SIZES[index % len(SIZES)]
            large = image.pixels.resize(size, PIL.Image.Resampling.BICUBIC)
            large.save(name, "JPEG", quality=QUALITY)

    def __getitem__(self, name: str) -> Image:
        return decode(Path(name), name, Limits())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_and_answer(backend: Backend, requests: Sequence[Request]) -> list[Result]:
    """What a command does: photos are decoded and prepared while the model answers. Raises ItemError."""
    by_id = {str(number): request for number, request in enumerate(requests)}
    items = [Item(number, request.images) for number, request in by_id.items()]
    window = WINDOW_BATCHES * (getattr(backend, "batch_size", None) or DEFAULT_BATCH_SIZE)
    rows = run(items, lambda item: by_id[item.id], backend, Report(model=""), limits=Limits(), window=window)
    made = list(rows)
    for row in made:
        if row.error is not None:
            raise BadItem(row.error.message)
    return made


class SleepingDevice:
    """A backend that prepares requests as another does, and sleeps for each instead of answering it."""

    def __init__(self, backend: StreamingBackend, seconds: float) -> None:
        self._backend = backend
        self._seconds = seconds
        self.batch_size = getattr(backend, "batch_size", None) or DEFAULT_BATCH_SIZE

    @property
    def spec(self) -> ModelSpec:
        return self._backend.spec

    @property
    def style(self) -> Style:
        return self._backend.style

    @property
    def revision(self) -> str | None:
        return None

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self._backend.preview(request, images)

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        given = iter([[self.prepare(request, images) for request in requests]])
        ended = self.answer_prepared(lambda *_: next(given, None))
        return [pair[1] for pair in ended if pair is not None]

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        return self._backend.prepare(request, images)

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        while (taken := take(self.batch_size, True)) is not None:
            for prepared in taken:
                time.sleep(self._seconds)
                yield prepared, Answer("", seconds=self._seconds)
            if not taken:
                yield None

    def close(self) -> None:
        self._backend.close()


def count_cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
