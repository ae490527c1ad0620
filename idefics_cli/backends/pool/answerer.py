"""A worker's side: images are read and requests prepared in threads, while the model answers earlier ones.

One thread owns the model, and answers are sent as they end, as in a run without workers. Knows no sockets.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ...content import describe_file
from ...errors import ItemError, to_item_error
from ...images import Limits, decode, drop_pixels, is_url, leave_unread, load
from ...lru import LRUCache
from ...values import Image, Request, list_sources
from ..backend import Outcome, PreparedRequest, StreamingBackend

READERS = 32
"""Images that are read at the same time; most of them wait for a network."""
PREPARERS = os.cpu_count() or 1
KEPT_BYTES = 256_000_000
"""Images of shots, which come again with every batch."""
PATIENCE_SECONDS = 1.0
"""How long the model waits for the slowest of a batch."""
_WAIT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class BatchReply:
    """An outcome for each request, and what was seen of each image that was read here, without its pixels."""

    outcomes: list[Outcome]
    images: dict[str, Image]


@dataclass(slots=True, eq=False)
class AskedBatch:
    """A batch that is being answered, and the future of its reply."""

    requests: Sequence[Request]
    images: dict[str, Image]
    limits: Limits
    reply: Future[BatchReply] = field(default_factory=Future)
    is_cancelled: bool = False
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    reads: dict[str, Future[Image | ItemError]] = field(default_factory=dict)

    def abandon(self) -> None:
        """Nobody waits for the rest: requests that have not started are dropped."""
        self.is_cancelled = True


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    batch: AskedBatch
    number: int
    prepared: PreparedRequest


class BatchAnswerer:
    """Answers batches with one backend, whose model no other thread may use."""

    def __init__(self, backend: StreamingBackend) -> None:
        self._backend = backend
        self._ready: deque[_Ready] = deque()
        self._asked: dict[int, _Ready] = {}
        self._unready = 0
        self._changed = threading.Condition()
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._preparing = threading.Semaphore(PREPARERS)
        self._shots: LRUCache[str, Image] = LRUCache(KEPT_BYTES)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, batch: AskedBatch) -> Future[BatchReply]:
        with self._changed:
            self._unready += len(batch.requests)
        for number in range(len(batch.requests)):
            self._readers.submit(self._prepare, batch, number)
        if not batch.requests:
            batch.reply.set_result(BatchReply([], {}))
        return batch.reply

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, batch: AskedBatch, number: int) -> None:
        request = batch.requests[number]
        try:
            images: dict[str, Image] = {}
            failure: ItemError | None = None
            for source in dict.fromkeys(list_sources(request.prompt)):
                image = self._find_image(batch, source, is_shot=source not in request.images)
                if isinstance(image, Image):
                    images[source] = image
                else:
                    failure = failure or image
            if failure is not None:
                raise failure
            with self._preparing:
                prepared = self._backend.prepare(request, images)
            ready = _Ready(batch, number, prepared)
        except BaseException as error:
            ready = None
            self._fail(batch, number, error)
        with self._changed:
            self._unready -= 1
            if ready is not None:
                self._ready.append(ready)
            self._changed.notify_all()

    def _find_image(self, batch: AskedBatch, source: str, *, is_shot: bool) -> Image | ItemError:
        """The image of a source, read once for all requests of a batch that show it."""
        given = batch.images[source]
        if given.digest:
            return given
        with self._changed:
            reading = batch.reads.get(source)
            if reading is None:
                mine = batch.reads[source] = Future()
        if reading is not None:
            return reading.result()
        try:
            mine.set_result(self._read(given, batch.limits, is_shot=is_shot))
        except BaseException as error:
            mine.set_exception(error)  # else who waits for it would wait for ever
            raise
        return mine.result()

    def _read(self, given: Image, limits: Limits, *, is_shot: bool) -> Image | ItemError:
        key = f"{given.source} {limits} {hashlib.sha256(given.data or b'').hexdigest()}" if is_shot else ""
        if is_shot and (known := self._shots.find(key)) is not None:
            return known
        try:
            image = load(given.source, limits) if given.data is None else decode(given.data, given.source, limits)
        except BaseException as error:
            return to_item_error(error)
        if is_shot:
            self._shots.keep(key, image, image.held_bytes)
        return image

    def _fail(self, batch: AskedBatch, number: int, error: BaseException) -> None:
        try:
            self._end(batch, number, to_item_error(error))
        except BaseException as raised:
            _raise_to(batch, raised)

    def _end(self, batch: AskedBatch, number: int, outcome: Outcome) -> None:
        with self._changed:
            batch.outcomes[number] = outcome
            if len(batch.outcomes) < len(batch.requests) or batch.reply.done():
                return
        reads = {
            source: reading.result()
            for source, reading in batch.reads.items()
            if reading.done() and reading.exception() is None
        }
        batch.reply.set_result(
            BatchReply(
                [batch.outcomes[number] for number in range(len(batch.requests))],
                {source: _tell_of(batch.images[source], image) for source, image in reads.items()},
            )
        )

    def _run(self) -> None:
        """Answer until the end. An error that is not a request's is raised to all who wait."""
        while not self._is_closed:
            try:
                for pair in self._backend.answer_prepared(self._take):
                    if pair is not None:
                        ready = self._asked.pop(id(pair[0]))
                        self._end(ready.batch, ready.number, pair[1])
            except BaseException as error:
                with self._changed:
                    waiting = [*self._asked.values(), *self._ready]
                    self._asked.clear()
                    self._ready.clear()
                for ready in waiting:
                    _raise_to(ready.batch, error)

    def _take(self, count: int, wait: bool) -> list[PreparedRequest] | None:
        with self._changed:
            if wait:
                self._wait_for(count)
            if self._is_closed:
                return None
            taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
            taken = [one for one in taken if not one.batch.is_cancelled and not one.batch.reply.done()]
            self._asked.update((id(one.prepared), one) for one in taken)
        return [one.prepared for one in taken]

    def _wait_for(self, count: int) -> None:
        """Wait for so many while they are being prepared; for the first one, longer."""
        self._changed.wait_for(lambda: self._ready or self._is_closed, _WAIT_SECONDS)
        self._changed.wait_for(
            lambda: len(self._ready) >= count or not self._unready or self._is_closed,
            PATIENCE_SECONDS if self._ready else 0,
        )


def _tell_of(given: Image, read: Image | ItemError) -> Image:
    """What the command needs to know of an image that was read here, or what kind of file it was instead."""
    if isinstance(read, Image):
        return drop_pixels(read)
    if is_url(given.source):
        return leave_unread(given.source)
    return leave_unread(given.source, content=describe_file(given.source) if given.data is None else None)


def _raise_to(batch: AskedBatch, error: BaseException) -> None:
    if not batch.reply.done():
        batch.reply.set_exception(error)
