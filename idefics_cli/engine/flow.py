"""The order in which requests start and leave, and what happens when memory runs short or a pass fails.

A row that ends makes room at once. The next rows join when there are enough of them to be worth a pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Self

from ..errors import ItemError
from ..models.devices import is_out_of_memory
from .batching import Batch
from .engine import Engine, Outcome, Work
from .generate import Continuation
from .oom_retry import Done, describe_no_room, free_memory, is_of_work, run_batch
from .planned import Planned, Turns
from .running_row import RunningRow

WAITING_BATCHES = 2
"""How many batches' worth of works wait here, so that alike ones are put together."""
OVERTAKING_BATCHES = 4
"""After how many batches' worth of others a request is the next one; short ones would wait as long as others come."""
PATIENCE = 16
"""How often as many rows as there may be have to fit before more are tried, where more did not fit before."""
JOIN_SHARE = 4
"""One part in so many of the rows must be free before others join: each time they do costs a pass of its own."""

Take = Callable[[int, bool], Sequence[Work] | None]
"""At most so many works that are there; with True it may wait for some. None when there will be no more."""


class Flow:
    """The requests of one run, at most `rows` of them at a time; if it `grows`, more as long as they fit."""

    def __init__(self, engine: Engine, take: Take, rows: int, *, grows: bool = False) -> None:
        self._engine = engine
        self._take = take
        self._most = max(rows, engine.most_rows) if grows else rows
        self._rows = rows
        self._patience = 1
        self._full_joins = 0
        self._planned: deque[Planned] = deque()
        self._turns = Turns()
        self._decoder = engine.open_decoder() if engine.has_slots else None
        self._shared: dict[int, int] = {}
        self._bare: set[int] = set()
        """Requests that did not fit alone, and are tried once more with nothing kept."""
        self._is_last = False

    def run(self) -> Generator[tuple[Work, Done | ItemError] | None]:
        """Each request when it ends, or its failure; None when it waited and there was nothing."""
        self._engine.expect(lambda: self._planned)
        try:
            while not self._is_done():
                if self._planned and self._has_room():
                    planned = self._planned[0]
                    if self._engine.joins(planned.works[0]):
                        yield from self._join(planned)
                    else:
                        self._planned.popleft()
                        self._engine.room.stop()
                        yield from run_batch(self._engine, planned.works, planned.cuts)
                elif self._running:
                    yield from self._step()
                else:
                    yield None
            self._engine.room.stop()
        finally:
            self._engine.expect(None)
            if self._decoder is not None:
                self._decoder.close()

    def _is_done(self) -> bool:
        self._fill()
        return self._is_last and not self._planned and not self._running

    @property
    def _running(self) -> list[RunningRow]:
        return [] if self._decoder is None else self._decoder.rows

    def _fill(self) -> None:
        """Take the requests that wait, if fewer than a batch are planned, and plan all of them again."""
        waiting = [work for planned in self._planned for work in planned.works]
        if self._is_last or len(waiting) >= self._rows:
            return
        is_idle = not waiting and not self._running
        works = self._take(WAITING_BATCHES * self._rows - len(waiting), is_idle)
        if works is None:
            self._is_last = True
        elif works:
            waiting += works
            batches = [Batch((index,)) for index in range(len(waiting))]
            with _Attempt():
                batches = self._engine.plan(waiting, rows=self._rows)
            planned = [Planned([waiting[index] for index in batch.rows], batch.cuts) for batch in batches]
            most = OVERTAKING_BATCHES * self._rows
            self._planned = deque(self._turns.order(planned, new=len(works), most=most))

    def _has_room(self) -> bool:
        running = len(self._running)
        if not running:
            return True
        first = self._planned[0].works
        if not self._engine.joins(first[0]):
            return True
        waiting = sum(len(planned.works) for planned in self._planned)
        free = self._engine.count_room([row.work for row in self._running], first[0], self._rows)
        return free >= min(waiting, max(1, self._rows // JOIN_SHARE))

    def _join(self, planned: Planned) -> Iterator[tuple[Work, Done | ItemError]]:
        """Start as many requests of one prefix as there is room for."""
        assert self._decoder is not None
        running = [row.work for row in self._running]
        room = max(1, self._engine.count_room(running, planned.works[0], self._rows))
        works = [work for work in planned.works[:room] if isinstance(work, Continuation)]
        rows: list[RunningRow] = []
        self._engine.room.stop()
        with _Attempt() as attempt:
            planned.prefix = planned.prefix or self._engine.open_prefix(works[0], planned.cuts)
            rows = self._decoder.admit(works, planned.prefix)
        if attempt.fault is _Fault.OTHER:
            self._drop(planned, len(works))
            yield from self._run_alone(works)
            return
        if planned.prefix is None or attempt.fault is not None:
            self._engine.free()
            free_memory()
            yield from self._make_do(planned, len(works))
            return
        for place, row in enumerate(rows):
            is_first = place == 0 and not planned.is_begun
            self._shared[id(row)] = planned.prefix.reused if is_first else planned.prefix.length
        planned.is_begun = True
        longest = max(len(work.encoded.ids) for work in (*works, *running))
        tokens = len(works) * (longest - planned.prefix.length)
        self._engine.room.join(tokens, (len(works) + len(running)) * longest)
        self._drop(planned, len(works))
        self._grow()
        yield from self._finish(row for row in rows if row.is_ended)

    def _grow(self) -> None:
        """Allow more rows after the largest number fitted; after a failure, only some time later."""
        self._full_joins += len(self._running) >= self._rows
        if self._full_joins >= self._patience:
            self._rows, self._full_joins = min(self._most, 2 * self._rows), 0

    def _fail(self, rows: int) -> None:
        """Allow fewer rows, as this number did not fit."""
        self._rows, self._full_joins, self._patience = rows, 0, PATIENCE

    def _make_do(self, planned: Planned, count: int) -> Iterator[tuple[Work, Done | ItemError]]:
        """Try with fewer requests at a time, as these did not fit beside the running ones."""
        planned.prefix = None
        running = len(self._running)
        if count > 1:
            self._fail(running + count // 2)
        elif running:
            self._fail(running)
        else:
            first = planned.works[0]
            self._drop(planned, 1)
            if id(first) in self._bare:
                self._bare.remove(id(first))
                yield first, describe_no_room()
            else:
                self._bare.add(id(first))
                self._planned.appendleft(Planned([first], ()))

    def _step(self) -> Iterator[tuple[Work, Done | ItemError]]:
        assert self._decoder is not None
        ended: list[RunningRow] = []
        if self._engine.room.is_measured:
            lengths = [len(row.work.encoded.ids) + len(row.ids) for row in self._running]
            self._engine.room.hold(len(lengths) * max(lengths))
        with _Attempt() as attempt:
            ended = self._decoder.step()
        if attempt.fault is _Fault.OTHER:
            # Whose fault it was shows when each begins anew by itself.
            works = [row.work for row in self._running]
            with suppress(Exception):
                self._decoder.close()
            self._decoder = self._engine.open_decoder()
            yield from self._run_alone(works)
            return
        if attempt.fault is None:
            yield from self._finish(ended)
            return
        self._engine.free()
        free_memory()
        rows = self._running
        if len(rows) == 1:
            with _Attempt() as attempt:
                ended = self._decoder.step()
            if attempt.fault is not None:
                self._decoder.evict(rows[0])
                yield rows[0].work, describe_no_room()
                return
            yield from self._finish(ended)
            return
        # The answers of the latest begin anew, when there is room.
        for row in rows[(len(rows) + 1) // 2 :]:
            self._decoder.evict(row)
            self._planned.appendleft(Planned([row.work], ()))
        self._fail(len(self._running))

    def _drop(self, planned: Planned, count: int) -> None:
        """Remove the first requests of the first batch."""
        del planned.works[:count]
        if not planned.works:
            self._planned.popleft()

    def _run_alone(self, works: Iterable[Work]) -> Iterator[tuple[Work, Done | ItemError]]:
        self._engine.free()
        for work in works:
            yield from run_batch(self._engine, [work], ())

    def _finish(self, rows: Iterable[RunningRow]) -> Iterator[tuple[Work, Done | ItemError]]:
        for row in rows:
            self._bare.discard(id(row.work))
            yield row.work, Done(Outcome(row.finish(), (), self._shared.pop(id(row), 0)), row.seconds)


class _Fault(Enum):
    """Why a pass failed."""

    MEMORY = auto()
    OTHER = auto()


class _Attempt:
    """A pass that may fail. Its memory is free afterwards, as no traceback keeps the tensors."""

    def __init__(self) -> None:
        self.fault: _Fault | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            return False
        self.fault = _Fault.MEMORY if is_out_of_memory(error) else _Fault.OTHER
        return self.fault is _Fault.MEMORY or is_of_work(error)
