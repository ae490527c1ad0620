"""Which worker gets which requests next: pure decisions.

Knows neither what a request is nor how a worker is reached, and has no clock of its own, so that a day of a thousand
workers is simulated in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MOST_LOSSES_TOGETHER = 2
"""What has been lost so often is asked with nothing beside it, once."""
FREE_SHAPES = {
    ("process", "cpu"): (8, 12),
    ("process", "gpu"): (32, 24),
    ("actor", "cpu"): (64, 2),
    ("actor", "gpu"): (128, 2),
}
"""Requests of a batch, and batches of a worker at a time, where no batch size was given: its model answers as many at a
time as fit. What goes to another machine goes in larger batches.
"""
_SMOOTHING = 0.2

Unit = TypeVar("Unit")


@dataclass(slots=True, eq=False)
class WorkerBatch(Generic[Unit]):
    """Requests that are sent together, and how many workers went away while they had them."""

    units: Sequence[Unit]
    losses: int = 0
    began: float = 0.0

    @property
    def goes_alone(self) -> bool:
        return self.losses >= MOST_LOSSES_TOGETHER


@dataclass(slots=True, eq=False)
class Seat(Generic[Unit]):
    """A worker in the schedule. It may have `window` batches at a time, fewer if others are faster."""

    name: str
    window: int = 2
    batches: dict[int, WorkerBatch[Unit]] = field(default_factory=dict)
    seconds: float = 0.0
    """What a batch takes, of late."""
    has_answered: bool = False
    is_lost: bool = False
    is_drained: bool = False
    """Whether it is to have nothing more."""
    level: int | None = None
    """How many batches it has, as long as it may have more."""

    @property
    def is_open(self) -> bool:
        return not self.is_lost and not self.is_drained


class Schedule(Generic[Unit]):
    """What waits, and which worker has what. `size` requests make a batch; if `is_paced`, a slow worker has fewer at a
    time.
    """

    def __init__(self, size: int, *, is_paced: bool = False) -> None:
        self.size = size
        self.seats: list[Seat[Unit]] = []
        self.has_ended = False
        """Whether nothing more will come."""
        self._is_paced = is_paced
        self._loose: list[Unit] = []
        self._returned: deque[WorkerBatch[Unit]] = deque()
        self._levels: list[dict[int, Seat[Unit]]] = []
        self._open_windows = self._in_flight = 0

    @property
    def is_idle(self) -> bool:
        return not (self._loose or self._returned or self._in_flight)

    @property
    def held(self) -> int:
        """Requests that are waiting or being answered."""
        returned = sum(len(batch.units) for batch in self._returned)
        return len(self._loose) + returned + self._in_flight

    @property
    def capacity(self) -> int:
        """How many requests all workers may have together."""
        if not self._is_paced:
            return self._open_windows * self.size
        return sum(self.count_window(seat) for seat in self.seats if seat.is_open) * self.size

    @property
    def has_any(self) -> bool:
        return any(not seat.is_lost for seat in self.seats)

    def count_window(self, seat: Seat[Unit]) -> int:
        """How many batches a worker may have: fewer, the slower it is compared with the fastest."""
        if not self._is_paced or not seat.seconds:
            return seat.window
        known = [one.seconds for one in self.seats if one.seconds and not one.is_lost]
        return max(1, round(seat.window * min(known) / seat.seconds)) if known else seat.window

    def count_room(self) -> int:
        """How many more requests could be sent at once."""
        return self.capacity - self.held

    def resize(self, size: int, window: int) -> None:
        """Set the requests of a batch and the batches of a worker."""
        self.size = size
        for seat in self.seats:
            self._open_windows += (window - seat.window) * seat.is_open
            seat.window = window

    def join(self, seat: Seat[Unit]) -> None:
        """Add a worker."""
        self.seats.append(seat)
        self._open(seat)

    def drain(self, seat: Seat[Unit]) -> None:
        """Give a worker nothing more."""
        if seat.is_open:
            seat.is_drained = True
            self._close(seat)

    def leave(self, seat: Seat[Unit]) -> None:
        """Remove a worker for good. It has no batch any more."""
        self.drain(seat)
        self.seats.remove(seat)

    def bring_back(self, seat: Seat[Unit]) -> None:
        """A lost worker answers again."""
        if seat.is_lost:
            seat.is_lost, seat.seconds = False, 0.0
            if seat.is_open:
                self._open(seat)

    def add(self, units: Iterable[Unit]) -> None:
        self._loose.extend(units)

    def add_together(self, units: Sequence[Unit]) -> None:
        """Requests that go to one worker as one batch."""
        self._returned.append(WorkerBatch(units))

    def assign(self, now: float) -> Iterator[tuple[Seat[Unit], WorkerBatch[Unit]]]:
        """Batches to send now, each with its worker. What was lost before goes first."""
        while self._returned:
            seat = self._find_free(is_idle=self._returned[0].goes_alone)
            if seat is None:
                return
            batch = self._returned.popleft()
            self._give(seat, batch, now)
            yield seat, batch
        while self._loose and (seat := self._find_free()) is not None:
            if (count := self._count_share(seat)) == 0:
                return
            batch = WorkerBatch(self._loose[:count])
            del self._loose[:count]
            self._give(seat, batch, now)
            yield seat, batch

    def finish(self, seat: Seat[Unit], batch: WorkerBatch[Unit], now: float) -> None:
        """A worker has answered a batch."""
        self._take_back(seat, batch)
        took = now - batch.began
        seat.seconds += (took - seat.seconds) * (_SMOOTHING if seat.seconds else 1.0)
        seat.has_answered = True

    def lose(self, seat: Seat[Unit]) -> list[WorkerBatch[Unit]]:
        """Stop using a worker. Its batches wait for another, before all others; a request that was alone with it is
        given up.
        """
        if seat.is_open:
            self._close(seat)
        seat.is_lost = True
        given_up: list[WorkerBatch[Unit]] = []
        again: list[WorkerBatch[Unit]] = []
        for batch in list(seat.batches.values()):
            self._take_back(seat, batch)
            batch.losses += 1
            if batch.losses > MOST_LOSSES_TOGETHER:
                given_up.append(batch)
            elif batch.goes_alone:
                again += [WorkerBatch([unit], batch.losses) for unit in batch.units]
            else:
                again.append(batch)
        self._returned.extendleft(reversed(again))
        return given_up

    def clear(self) -> None:
        """Drop everything that waits or is being answered."""
        self._loose.clear()
        self._returned.clear()
        for seat in self.seats:
            for batch in list(seat.batches.values()):
                self._take_back(seat, batch)
        self.has_ended = False

    def _open(self, seat: Seat[Unit]) -> None:
        self._open_windows += seat.window
        self._place(seat)

    def _close(self, seat: Seat[Unit]) -> None:
        self._open_windows -= seat.window
        self._lift(seat)

    def _lift(self, seat: Seat[Unit]) -> None:
        if seat.level is not None:
            del self._levels[seat.level][id(seat)]
            seat.level = None

    def _place(self, seat: Seat[Unit]) -> None:
        """Put a worker where it is found by its number of batches; a worker that may have no more is not found."""
        self._lift(seat)
        load = len(seat.batches)
        if not seat.is_open or any(batch.goes_alone for batch in seat.batches.values()):
            return
        while len(self._levels) <= load:
            self._levels.append({})
        self._levels[load][id(seat)] = seat
        seat.level = load

    def _give(self, seat: Seat[Unit], batch: WorkerBatch[Unit], now: float) -> None:
        batch.began = now
        seat.batches[id(batch)] = batch
        self._in_flight += len(batch.units)
        self._place(seat)

    def _take_back(self, seat: Seat[Unit], batch: WorkerBatch[Unit]) -> None:
        del seat.batches[id(batch)]
        self._in_flight -= len(batch.units)
        self._place(seat)

    def _find_free(self, *, is_idle: bool = False) -> Seat[Unit] | None:
        """The worker with the fewest batches that may have more, or one that has none."""
        for load, level in enumerate(self._levels[:1] if is_idle else self._levels):
            for seat in level.values():
                if load < self.count_window(seat):
                    return seat
                if not self._is_paced:
                    break
        return None

    def _count_share(self, seat: Seat[Unit]) -> int:
        """How many requests a worker gets now: a whole batch, or fewer if it would be idle otherwise."""
        if len(self._loose) >= self.size:
            return self.size
        if seat.batches and not self.has_ended:
            return 0
        idle = len(self._levels[0])
        return -(-len(self._loose) // max(1, idle))
