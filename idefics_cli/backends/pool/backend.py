"""The backend that lets workers answer: servers, processes on the devices of this machine, actors of a cluster.

Each worker gets as many requests at a time as suits its speed. A worker that went away gets none and is tried again
from time to time; the others get its requests. A request that was lost twice is asked alone, to tell it from those
beside it. Everything runs in one event loop, in the caller's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from ...errors import AnswerError, ModelError, ServerLost
from ...images import Limits
from ...values import Image, ModelSpec, Request, Style
from ..backend import DEFAULT_BATCH_SIZE, Outcome, PreparedRequest, Preview, Reading, TakePrepared
from .schedule import Schedule, Seat, WorkerBatch

WAIT_SECONDS = 180.0
"""How long to wait where no worker is left, if nobody said how long: vLLM takes 30 to 150 s to come back."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
"""Before a worker that went away is tried again; pauses double."""
_POLL_SECONDS, _GLANCE_SECONDS = 0.1, 0.01
"""How long to wait for news: all have enough to do, or there may be more to ask."""
_log = logging.getLogger(__name__)


class PoolWorker(Protocol):
    """A worker, as the pool needs it."""

    @property
    def name(self) -> str: ...

    async def ask(self, batch: Sequence[PreparedRequest]) -> Sequence[Outcome]:
        """Answer requests, in order. Raises ServerLost when it has gone away, ModelError for what ends the run."""
        ...

    async def is_there(self) -> bool:
        """Whether a worker that went away answers again; starts it if needed."""
        ...

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Member:
    """A worker and its place in the schedule."""

    worker: PoolWorker
    seat: Seat[PreparedRequest]
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    next_try: float = 0.0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    trial: asyncio.Task[bool] | None = None


_Ended = tuple[Member, WorkerBatch[PreparedRequest], "Sequence[Outcome] | BaseException"]


class BackendPool:
    """Answers requests through its workers. Its answers come as they end."""

    noun: ClassVar[str] = "worker"
    style: Style = "chat"
    revision: str | None = None
    _window = 2

    def __init__(self, spec: ModelSpec, *, is_paced: bool = False) -> None:
        self._spec = spec
        self._wait_seconds = WAIT_SECONDS
        self._runner = asyncio.Runner()
        self._schedule: Schedule[PreparedRequest] = Schedule(1, is_paced=is_paced)
        self._members: dict[int, Member] = {}
        self._ended: deque[_Ended] = deque()
        self._news: asyncio.Event | None = None
        self._alone_since: float | None = None
        self._last_loss: ServerLost | None = None
        self.batch_size = DEFAULT_BATCH_SIZE

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        """Requests that each worker answers at a time."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, count: int) -> None:
        self._batch_size = count
        self._schedule.resize(*self._shape(count))

    @property
    def capacity(self) -> int:
        """How many requests may be unanswered at a time."""
        return self._schedule.capacity

    @property
    def workers(self) -> tuple[int, int]:
        """How many workers answer now, and how many there are in all."""
        seats = self._schedule.seats
        return sum(seat.is_open for seat in seats), len(seats)

    def reads(self, source: str) -> Reading:
        """Whether a worker reads the image of a source, or this process does."""
        return "here"

    def limit_reading(self, limits: Limits) -> None:
        """Limits within which workers read images; nothing where they read none."""

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        """No preparation here: an image is encoded once for each worker that gets it."""
        held = sum(images[source].held_bytes for source in request.images)
        return PreparedRequest(request, dict(images), held)

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        """Answer what is taken, each as it ends. Raises ModelError when no worker answers for long."""
        schedule = self._schedule
        try:
            while not (schedule.has_ended and schedule.is_idle):
                is_idle = schedule.is_idle
                room = schedule.count_room()
                if not schedule.has_ended and (is_idle or room > 0):
                    taken = take(max(1, min(room, schedule.size) if is_idle else room), is_idle)
                    schedule.has_ended = taken is None
                    self._add(taken or ())
                    if is_idle and not taken:
                        yield None
                        continue
                ended = self._runner.run(self._advance())
                yield from ended or (None,)
        finally:
            self._runner.run(self._give_up())

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        """Answer each request, in order."""
        assert on_text is None, "only servers stream"
        left = deque(self.prepare(request, images) for request in requests)
        asked = list(left)

        def take(count: int, wait: bool) -> list[PreparedRequest] | None:
            return [left.popleft() for _ in range(min(count, len(left)))] if left else None

        outcomes = {id(pair[0]): pair[1] for pair in self.answer_prepared(take) if pair is not None}
        return [outcomes[id(one)] for one in asked]

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self._find_first().preview(request, images)

    def close(self) -> None:
        for member in self._members.values():
            member.worker.close()
        self._runner.close()

    def tend(self) -> None:
        """Restart lost workers while there is nothing to ask."""
        self._runner.run(self._advance())

    def _add(self, taken: Sequence[PreparedRequest]) -> None:
        self._schedule.add(taken)

    def _shape(self, batch_size: int) -> tuple[int, int]:
        """How many requests make a batch of that size, and how many such batches a worker may have."""
        return batch_size, self._window

    def _join(self, worker: PoolWorker) -> None:
        seat = Seat[PreparedRequest](worker.name, self._shape(self._batch_size)[1])
        self._members[id(seat)] = Member(worker, seat)
        self._schedule.join(seat)

    def _leave(self, member: Member) -> None:
        self._schedule.leave(member.seat)
        del self._members[id(member.seat)]
        member.worker.close()

    def _find_first(self) -> PoolWorker:
        members = self._members.values()
        return next((one for one in members if not one.seat.is_lost), next(iter(members))).worker

    async def _advance(self) -> list[tuple[PreparedRequest, Outcome]]:
        """Send what can be sent, wait a little, and return what has ended."""
        news = self._news = self._news or asyncio.Event()
        self._look_around()
        self._try_lost()
        for seat, batch in self._schedule.assign(time.monotonic()):
            member = self._members[id(seat)]
            member.tasks[id(batch)] = asyncio.ensure_future(self._ask(member, batch))
        if not self._ended:
            news.clear()
            has_room = not self._schedule.has_ended and self._schedule.count_room() > 0
            await _wait(news, _GLANCE_SECONDS if has_room else _POLL_SECONDS)
        self._read_trials()
        return await self._read_ended()

    def _look_around(self) -> None:
        """Add new workers and remove finished ones, where they come and go by themselves."""

    def _find_lost(self) -> list[tuple[Member, ServerLost]]:
        """Workers found to have ended without a failed request."""
        return []

    async def _ask(self, member: Member, batch: WorkerBatch[PreparedRequest]) -> None:
        try:
            said: Sequence[Outcome] | BaseException = await member.worker.ask(batch.units)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            said = error
        self._ended.append((member, batch, said))
        assert self._news is not None
        self._news.set()

    async def _read_ended(self) -> list[tuple[PreparedRequest, Outcome]]:
        """Answers first, then what was lost. Raises ModelError for what ends the run."""
        now = time.monotonic()
        answered: list[tuple[PreparedRequest, Outcome]] = []
        losses = self._find_lost()
        while self._ended:
            member, batch, said = self._ended.popleft()
            if id(batch) not in member.seat.batches:
                continue  # it was lost meanwhile, and is asked elsewhere
            if isinstance(said, ServerLost):
                losses.append((member, said))
                continue
            del member.tasks[id(batch)]
            if isinstance(said, BaseException):
                raise said
            self._schedule.finish(member.seat, batch, now)
            answered += zip(batch.units, said, strict=True)
        for member, loss in losses:
            self._last_loss = loss
            if not member.seat.is_lost:
                answered += await self._lose(member)
        return answered

    async def _lose(self, member: Member) -> list[tuple[PreparedRequest, Outcome]]:
        """Stop asking a worker; others get its requests. A request that was alone with it has failed."""
        member.next_try, member.pause_seconds = time.monotonic(), FIRST_PAUSE_SECONDS
        await _cancel(member.tasks.values())
        member.tasks.clear()
        failed: list[tuple[PreparedRequest, Outcome]] = []
        for batch in self._schedule.lose(member.seat):
            error = AnswerError(
                f"{batch.losses} {self.noun}s went away while they had this request, the last with no other",
                code="worker_lost",
                hint=f"look into the {self.noun}'s log, then try it again with --existing retry-errors",
            )
            failed += [(unit, error) for unit in batch.units]
        if any(seat.has_answered for seat in self._schedule.seats):  # else nobody has seen it there
            elsewhere = "others get its requests" if self._schedule.has_any else "waiting for it"
            _log.info("%s went away; %s", member.worker.name, elsewhere)
        return failed

    def _try_lost(self) -> None:
        """Ask workers that went away whether they are back. Raises ModelError when none has answered for long."""
        now = time.monotonic()
        for member in self._members.values():
            if member.seat.is_lost and member.trial is None and now >= member.next_try:
                member.trial = asyncio.ensure_future(self._try(member.worker))
        if self._schedule.has_any:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since > self._wait_seconds:
            names = ", ".join(member.worker.name for member in self._members.values())
            raise ServerLost(
                f"no {self.noun} has answered for {self._wait_seconds:g} s ({names})", hint=self._hint_lost()
            )

    def _hint_lost(self) -> str:
        return "look into their log, and start again"

    async def _try(self, worker: PoolWorker) -> bool:
        is_back = await worker.is_there()
        if self._news is not None:
            self._news.set()
        return is_back

    def _read_trials(self) -> None:
        for member in self._members.values():
            if member.trial is None or not member.trial.done():
                continue
            is_back = member.trial.result()
            member.trial = None
            if is_back:
                self._schedule.bring_back(member.seat)
                _log.info("%s answers again", member.worker.name)
            elif not self._schedule.has_any and not any(one.has_answered for one in self._schedule.seats):
                raise self._last_loss or ModelError(f"{member.worker.name} does not answer")
            else:
                member.next_try = time.monotonic() + member.pause_seconds
                member.pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * member.pause_seconds)

    async def _give_up(self) -> None:
        for member in self._members.values():
            await _cancel([*member.tasks.values(), *([member.trial] if member.trial is not None else [])])
            member.tasks.clear()
            member.trial = None
        self._ended.clear()
        self._schedule.clear()


def tell_images(batch: Sequence[PreparedRequest], seen: Mapping[str, Image]) -> None:
    """Put what a worker saw of images beside the requests that show them. When a sent file was written is known here
    only.
    """
    for one in batch:
        for source, given in one.work.items():
            if (image := seen.get(source)) is not None:
                one.images[source] = replace(image, content=given.content or image.content)


async def _wait(news: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await news.wait()


async def _cancel(tasks: Any) -> None:
    every = list(tasks)
    for task in every:
        task.cancel()
    await asyncio.gather(*every, return_exceptions=True)
