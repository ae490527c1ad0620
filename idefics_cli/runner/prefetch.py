"""Reads ahead of the model: items are listed, worded, fetched, decoded and prepared in threads, while it answers
earlier ones.

Bounded in items and in bytes of pixels. How a request is prepared is up to its backend.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from ..backends import Reading
from ..content import describe_bytes, describe_file
from ..errors import ItemError, to_item_error
from ..files import read_file_and_status
from ..images import Limits, decode, drop_pixels, is_url, leave_unread, read
from ..values import Image, Item, Request, list_sources
from .prepared_item import Load, Prepare, Prepared, PreparedItem, compose_item, read_own
from .threads import WorkerPool, start

FETCHERS = 32
"""Threads that wait for networks."""
DECODERS = (os.cpu_count() or 1) + 1
PREPARERS = os.cpu_count() or 1
MAX_HELD_BYTES = 1_000_000_000
"""Pixels that may wait for the model. Only what it is waiting for itself may go beyond."""
REACH = 10_000
SIZES = 4
"""How many items may overtake one that is stuck, and how many times as many as there may be at a time at least."""
PATIENCE_SECONDS = 1.0
"""How long a window waits for its slowest image before it starts without it; no item is waited for twice."""
LISTING_SECONDS = 0.1
"""How long a window waits for one more item to be listed: a pipe may have no more to say for now."""
_POLL_SECONDS = 0.1
MAX_WAITING_BYTES = 250_000_000
"""Of images that came with their items and are not decoded yet."""


def _here(source: str) -> Reading:
    return "here"


class Prefetcher:
    """Entries in the order of their items, prepared ahead of their use. A context manager.

    Each source is loaded once while any entry that is not yet released shows it. `size` is how many there may be at a
    time, as a number or a function.
    """

    def __init__(
        self,
        items: Iterable[Item],
        compose: Callable[[Item], Request],
        limits: Limits,
        *,
        size: int | Callable[[], int],
        prepare: Prepare | None = None,
        reads: Callable[[str], Reading] = _here,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        self._items = iter(items)
        self._compose = compose
        self._limits = limits
        self._choose_size = size if callable(size) else lambda: size
        self._size = self._choose_size()
        self._reads = reads
        self._prepare_request = prepare
        self._max_held_bytes = max_held_bytes
        self._number = 0  # of the next item to be listed
        self._entries: dict[int, PreparedItem] = {}  # listed and not yet released
        self._loads: dict[str, Load] = {}
        self._kept: dict[Load, int] = {}
        self._released = 0
        self._held_bytes = self._waiting_bytes = 0
        self._is_listed = self._is_closed = False
        self._listing_error: BaseException | None = None
        lock = self._lock = threading.Lock()
        self._ready = threading.Condition(lock)  # for the one who takes
        self._space = threading.Condition(lock)  # for the lister
        self._fetching = WorkerPool(lock, FETCHERS, self._fetch, lambda load: True)
        self._decoding = WorkerPool(lock, DECODERS, self._decode, self._has_room)
        self._preparing = WorkerPool(lock, PREPARERS, self._prepare, lambda entry: True)

    def __enter__(self) -> Self:
        start(self._list)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            self._space.notify_all()
            self._fetching.close()
            self._decoding.close()
            self._preparing.close()

    def next_batch(self, count: int, should_stop: Callable[[], bool], *, wait: bool = True) -> list[PreparedItem]:
        """The next entries that are ready, at most `count`; none at the end, or when the run should stop.

        Without waiting: those of the next ones that are ready. They come in order, but an entry whose image is slow is
        overtaken and comes when it is ready. An exception of the listing is raised after everything before it was
        taken.
        """
        began = time.monotonic()
        with self._lock:
            if not wait and not should_stop():
                near = (entry for entry in self._entries.values() if not entry.is_taken)
                return self._hand_over([entry for entry in islice(near, count) if entry.is_ready])
            while not should_stop():
                waiting = [entry for entry in self._entries.values() if not entry.is_taken]
                if not waiting and self._is_listed:
                    if self._listing_error is not None:
                        raise self._listing_error
                    break
                if taken := self._choose(waiting, count, time.monotonic() - began):
                    return self._hand_over(taken)
                self._ready.wait(_POLL_SECONDS)
        return []

    def release(self, entries: Sequence[PreparedItem]) -> None:
        """Release entries that were taken, and the images that no other entry shows.

        An image that several entries have shown, such as that of an example, is kept for as many more as may come.
        """
        with self._lock:
            self._released += len(entries)
            for entry in entries:
                del self._entries[entry.number]
                if entry.prepared is None:
                    self._put_down(entry)
                elif not isinstance(entry.prepared, ItemError):
                    self._held_bytes -= entry.prepared.held_bytes
            for load, released in list(self._kept.items()):
                if load.users or self._released - released > self._size:
                    del self._kept[load]
                    if not load.users:
                        self._drop(load)
            self._space.notify()
            self._decoding.wake()

    def _hand_over(self, entries: list[PreparedItem]) -> list[PreparedItem]:
        for entry in entries:
            entry.is_taken = True
        return entries

    def _put_down(self, entry: PreparedItem) -> None:
        """Mark that an entry no longer needs its images."""
        for load in entry.loads.values():
            load.users -= 1
            if load.users == 0 and load.is_shared and self._held_bytes < self._max_held_bytes:
                self._kept[load] = self._released
            elif load.users == 0:
                self._drop(load)

    def _choose(self, waiting: Sequence[PreparedItem], count: int, waited_seconds: float) -> list[PreparedItem]:
        """The entries to take now; none while it is better, or necessary, to wait."""
        on_time = list(islice((entry for entry in waiting if not entry.is_late), count))
        is_more_coming = not self._is_listed and len(self._entries) < self._size
        if len(on_time) < count and is_more_coming and waited_seconds < LISTING_SECONDS:
            return []
        ready = [entry for entry in waiting if entry.is_ready and (entry.is_late or entry in on_time)]
        if not ready:
            # Memory may be full of what is not complete yet: the next ones get through all the same.
            for load in (load for entry in (*waiting[:1], *on_time[:1]) for load in entry.loads.values()):
                load.is_urgent = True
            self._decoding.wake()
        for entry in on_time:
            if entry.is_ready:
                continue
            if ready and self._held_bytes >= self._max_held_bytes:
                break  # a smaller window rather than more memory
            if waited_seconds < PATIENCE_SECONDS:
                return []
            entry.is_late = True
        return ready[:count]

    def _drop(self, load: Load) -> None:
        del self._loads[load.source]
        self._held_bytes -= load.held_bytes

    def _list(self) -> None:
        error: BaseException | None = None
        try:
            while self._wait_for_space() and (item := next(self._items, None)) is not None:
                request = compose_item(item, self._compose)
                own = {} if isinstance(request, ItemError) else read_own(item)
                self._add(item, own if isinstance(own, ItemError) else request, own)
        except BaseException as caught:  # raised again by `take`, in the thread that runs the model
            error = caught
        with self._lock:
            self._listing_error = error
            self._is_listed = True
            self._ready.notify()

    def _wait_for_space(self) -> bool:
        with self._lock:
            self._size = self._choose_size()
            while not self._is_closed and (
                len(self._entries) >= self._size
                or self._number - next(iter(self._entries), self._number) >= max(REACH, SIZES * self._size)
                or self._waiting_bytes >= MAX_WAITING_BYTES
            ):
                self._space.wait()
            return not self._is_closed

    def _add(self, item: Item, request: Request | ItemError, own: Mapping[str, bytes | Path] | ItemError) -> None:
        sources = () if isinstance(request, ItemError) else list_sources(request.prompt)
        data = {} if isinstance(own, ItemError) else own
        with self._lock:
            loads = {source: self._loads.get(source) or self._submit(source, data.get(source)) for source in sources}
            for load in loads.values():
                load.is_shared = load.is_shared or load.users > 0
                load.users += 1
            entry = self._entries[self._number] = PreparedItem(self._number, item, request, loads)
            for load in loads.values():
                if load.outcome is None:
                    load.waiting.append(entry)
            self._number += 1
            self._go_on(entry)

    def _submit(self, source: str, data: bytes | Path | None) -> Load:
        reading = self._reads(source)
        if data is not None and reading == "there":  # nobody else has what came with the item
            reading = "sent"
        load = self._loads[source] = Load(source, data, reading=reading)
        if reading == "there":
            load.outcome = leave_unread(source)
            return load
        self._waiting_bytes += load.waiting_bytes
        is_far = data is None and (source == "-" or is_url(source))
        (self._fetching if is_far else self._decoding).add(load)
        return load

    def _fetch(self, load: Load) -> None:
        try:
            data: bytes | Path | ItemError = read(load.source, self._limits)
        except BaseException as error:
            data = to_item_error(error)
        with self._lock:
            if isinstance(data, ItemError):
                self._finish(load, data)
            else:
                load.data = data
                self._waiting_bytes += load.waiting_bytes
                self._decoding.add(load)

    def _decode(self, load: Load) -> None:
        data = load.data
        try:
            data = read(load.source, self._limits) if data is None else data
            unread = _read_whole(data, load.source, self._limits) if load.reading == "sent" else None
            outcome: Image | ItemError = unread or decode(data, load.source, self._limits)
        except BaseException as error:
            outcome = to_item_error(error)
            if data is not None:
                load.content = describe_bytes(data) if isinstance(data, bytes) else describe_file(data)
        with self._lock:
            self._finish(load, outcome)

    def _finish(self, load: Load, outcome: Image | ItemError) -> None:
        self._waiting_bytes -= load.waiting_bytes
        self._space.notify()
        load.outcome, load.data = outcome, None
        self._held_bytes += load.held_bytes
        for entry in load.waiting:
            self._go_on(entry)
        load.waiting.clear()

    def _go_on(self, entry: PreparedItem) -> None:
        """The next step of an entry whose images are loaded: to be prepared, or to be taken."""
        if not entry.is_loaded or entry.is_ready:
            return
        if self._prepare_request is None or entry.failure is not None:
            entry.is_ready = True
            self._ready.notify()
        else:
            self._preparing.add(entry)

    def _prepare(self, entry: PreparedItem) -> None:
        assert self._prepare_request is not None
        assert not isinstance(entry.request, ItemError)
        images = entry.images
        try:
            prepared: Prepared | ItemError = self._prepare_request(entry.request, images)
        except BaseException as error:
            prepared = to_item_error(error)
        with self._lock:
            self._put_down(entry)
            entry.loads = {source: Load(source, outcome=drop_pixels(image)) for source, image in images.items()}
            entry.prepared, entry.is_ready = prepared, True
            if not isinstance(prepared, ItemError):
                self._held_bytes += prepared.held_bytes
            self._ready.notify()
            self._decoding.wake()

    def _has_room(self, load: Load) -> bool:
        return load.is_urgent or self._held_bytes < self._max_held_bytes


def _read_whole(data: bytes | Path, source: str, limits: Limits) -> Image | None:
    """The image with the bytes of its file; None if the decoder should report its error or size."""
    if isinstance(data, bytes):
        return leave_unread(source, data, describe_bytes(data))
    try:
        whole, status = read_file_and_status(data, limits.max_bytes)
    except (OSError, ValueError):
        return None
    return leave_unread(source, whole, describe_bytes(whole, status))
