"""`/v1/requests`: from one item or a list, as in a file for `idefics batch`, to rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..backends import Outcome, Preview
from ..errors import SourceError
from ..images import read
from ..images.limits import UNKNOWN_PIXELS, count_pixels
from ..images.names import parse_scheme
from ..prompts.items import ItemReader
from ..runner.run import Report, run
from ..values import Image, Item, ModelSpec, Request, Style
from .budget import DECODING_BYTES, PIXEL_BYTES, Holding, count_kept
from .job_queue import Refused
from .jobs import Job, make_job
from .request_images import check_sources
from .state import ServerState

MAX_ITEMS = MAX_KEYS = 1000
HELD_BYTES = 250_000_000
"""Of the decoded images of one call."""


class ServedBackend:
    """The backend of a run inside the server: every window is a job like any other."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._job: Job | None = None
        self.is_abandoned = False

    @property
    def spec(self) -> ModelSpec:
        return self._state.backend.spec

    @property
    def style(self) -> Style:
        return self._state.backend.style

    @property
    def revision(self) -> str | None:
        return self._state.backend.revision

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        """Wait for the outcomes. Raises Refused, and what the model raises."""
        with self._lock:
            job = self._job = make_job(requests, images, on_text)
            if self.is_abandoned:
                job.abandon()
        self._state.scheduler.submit(job)
        try:
            return job.outcomes.result()
        except CancelledError:
            raise Refused(is_ending=False) from None  # nobody waits for these rows

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self._state.backend.preview(request, images)

    def close(self) -> None:
        """Nothing to close: the model is the server's."""

    def abandon(self) -> None:
        """Stop: nobody waits for the rows any more."""
        with self._lock:
            self.is_abandoned = True
            if self._job is not None:
                self._job.abandon()


def answer_items(
    items: Sequence[Item], reader: ItemReader, state: ServerState, backend: ServedBackend
) -> list[dict[str, Any]]:
    """The rows of items, in order. Blocks; `backend.abandon` from another thread stops it."""
    report = Report(model=state.name)
    results = run(
        items,
        lambda item: _compose(item, reader, state),
        backend,
        report,
        limits=state.rules.limits,
        window=min(len(items), state.rules.queue),
        max_held_bytes=HELD_BYTES,
        should_stop=lambda: backend.is_abandoned,
    )
    return [result.to_row() for result in results]


def reserve(items: Sequence[Item], state: ServerState, holding: Holding) -> None:
    """Reserve memory for the images of a run: as their headers say, or at most what is decoded ahead."""
    limits = state.rules.limits
    sources = {source for item in items for source in item.images if parse_scheme(source) == "data"}
    pixels = [0]
    for source in sources:
        with suppress(SourceError):
            pixels.append(min(count_pixels(read(source, limits)), limits.max_pixels))
    others = {source for item in items for source in item.images} - sources
    pixels += [UNKNOWN_PIXELS] * len(others)
    holding.grow(min(sum(map(count_kept, pixels)), HELD_BYTES) + max(pixels) * (DECODING_BYTES + PIXEL_BYTES))


def open_reader() -> ItemReader:
    return ItemReader(Path(), {}, has_stdin=False, has_files=False)


def _compose(item: Item, reader: ItemReader, state: ServerState) -> Request:
    if not item.problem:
        sources = [*item.images, *(source for example in item.examples for source in example.images)]
        check_sources(sources, most=state.rules.images)
    request = reader.compose(item, state.backend.style)
    state.check_letters(request)
    return request
