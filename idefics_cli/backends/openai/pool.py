"""The backend that asks several servers with the same model, each as many at a time as suits how fast it answers.

One that goes away is left out, what it was asked is asked elsewhere, and it is tried again from time to time. What has
been lost twice goes alone, so that a request that ends servers is told from those beside it. All runs in one event
loop, which is the caller's thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import AnswerError, ItemError, ServerLost
from ...values import Answer, Image, ModelSpec, Request, Style
from ..backend import DEFAULT_BATCH_SIZE, PreparedRequest, Preview, TakePrepared
from .backend import RemoteBackend

WAIT_SECONDS = 180.0
"""How long to wait where no server is left, if nobody said how long: vLLM takes 30 to 150 s to come back."""
MOST_LOSSES_TOGETHER = 2
"""What has been lost so often is asked with nothing beside it, once."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
"""Before a server that went away is tried again; pauses double."""
_POLL_SECONDS = 0.1
_SMOOTHING = 0.2
_log = logging.getLogger(__name__)
Outcome = Answer | ItemError


@dataclass(slots=True, eq=False)
class _Asked:
    """A request on its way, and how many servers went away while they had it."""

    prepared: PreparedRequest
    losses: int = 0
    began: float = 0.0

    @property
    def goes_alone(self) -> bool:
        return self.losses >= MOST_LOSSES_TOGETHER


@dataclass(slots=True, eq=False)
class _Server:
    backend: RemoteBackend
    address: str
    asked: dict[asyncio.Task[Outcome], _Asked] = field(default_factory=dict)
    seconds: float = 0.0
    """What an answer takes, of late."""
    has_answered: bool = False
    is_lost: bool = False
    next_try: float = 0.0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    trial: asyncio.Task[bool] | None = None


class ServerPool:
    """Answers requests through the servers of a spec. Its answers come as they end."""

    style: Style = "chat"
    revision: str | None = None

    def __init__(self, spec: ModelSpec) -> None:
        self.batch_size = DEFAULT_BATCH_SIZE
        self._spec = spec
        self._wait_seconds = WAIT_SECONDS
        self._runner = asyncio.Runner()
        self._servers = [
            _Server(RemoteBackend(replace(spec, servers=(address,)), self._runner), address)
            for address in spec.servers
        ]
        self._waiting: deque[_Asked] = deque()
        self._alone_since: float | None = None
        self._last_loss: ServerLost | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def limit_seconds(self, timeout_seconds: float | None, wait_seconds: float | None) -> None:
        """Wait so long for each answer, and for a server where none is left."""
        for server in self._servers:
            server.backend.limit_seconds(timeout_seconds)
        self._wait_seconds = WAIT_SECONDS if wait_seconds is None else wait_seconds

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        """Nothing but what it holds: a picture is encoded once for each server that is sent it."""
        pixels = [images[source].pixels for source in request.images]
        return PreparedRequest(request, dict(images), sum(one.width * one.height * 3 for one in pixels))

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        """Answer what is taken, each as it ends. Raises ModelError when no server is left for long."""
        has_ended = False
        try:
            while True:
                is_idle = not self._waiting and not any(server.asked for server in self._servers)
                if has_ended and is_idle:
                    return
                room = self._count_room()
                if not has_ended and (is_idle or room > 0):
                    taken = take(max(1, room), is_idle)
                    has_ended = taken is None
                    self._waiting.extend(map(_Asked, taken or ()))
                    if is_idle and not taken:
                        yield None
                        continue
                ended = self._runner.run(self._advance())
                yield from ended or (None,)
        finally:
            self._waiting.clear()
            self._runner.run(self._give_up())

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        """Answer each request, in order; a streamed one by the first server that is there."""
        if on_text is not None:
            there = next((one for one in self._servers if not one.is_lost), self._servers[0])
            return there.backend.answer(requests, images, on_text)
        left = deque(self.prepare(request, images) for request in requests)
        asked = list(left)

        def take(count: int, wait: bool) -> list[PreparedRequest] | None:
            return [left.popleft() for _ in range(min(count, len(left)))] if left else None

        outcomes = {id(pair[0]): pair[1] for pair in self.answer_prepared(take) if pair is not None}
        return [outcomes[id(one)] for one in asked]

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self._servers[0].backend.preview(request, images)

    def close(self) -> None:
        for server in self._servers:
            server.backend.close()
        self._runner.close()

    def _window(self, server: _Server) -> int:
        """How many a server may have at a time: fewer, the longer it takes beside the fastest."""
        known = [one.seconds for one in self._servers if one.seconds and not one.is_lost]
        if not server.seconds or not known:
            return self.batch_size
        return max(1, round(self.batch_size * min(known) / server.seconds))

    def _count_room(self) -> int:
        there = [server for server in self._servers if not server.is_lost]
        room = sum(max(0, self._window(server) - len(server.asked)) for server in there)
        return room - len(self._waiting)

    def _choose(self, asked: _Asked) -> _Server | None:
        """Who is asked next; nobody while all have their share, or while one is to have nothing else."""
        there = [server for server in self._servers if not server.is_lost]
        if asked.goes_alone:
            return next((server for server in there if not server.asked), None)
        free = [
            server
            for server in there
            if len(server.asked) < self._window(server)
            and not any(other.goes_alone for other in server.asked.values())
        ]
        return min(free, key=lambda server: len(server.asked) / self._window(server), default=None)

    async def _advance(self) -> list[tuple[PreparedRequest, Outcome]]:
        """Ask what can be asked, wait a little, and hand back what has ended."""
        self._try_lost()
        while self._waiting and (server := self._choose(self._waiting[0])) is not None:
            asked = self._waiting.popleft()
            asked.began = time.monotonic()
            prepared = asked.prepared
            server.asked[asyncio.ensure_future(server.backend.ask(prepared.request, prepared.work))] = asked
        tasks: list[asyncio.Task[Any]] = [task for server in self._servers for task in server.asked]
        tasks += [server.trial for server in self._servers if server.trial is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(_POLL_SECONDS)
        self._read_trials()
        return [ended for server in self._servers for ended in await self._read(server)]

    async def _read(self, server: _Server) -> list[tuple[PreparedRequest, Outcome]]:
        """What a server has answered. Raises ModelError for what ends the run."""
        ended: list[tuple[PreparedRequest, Outcome]] = []
        done = [task for task in server.asked if task.done()]
        for task in sorted(done, key=lambda task: isinstance(task.exception(), ServerLost)):
            if isinstance(error := task.exception(), ServerLost):
                self._last_loss = error
                return ended + await self._lose(server)
            asked = server.asked.pop(task)
            outcome = task.result()  # raises what ends the run
            took = time.monotonic() - asked.began
            server.seconds += (took - server.seconds) * (_SMOOTHING if server.seconds else 1.0)
            server.has_answered = True
            ended.append((asked.prepared, outcome))
        return ended

    async def _lose(self, server: _Server) -> list[tuple[PreparedRequest, Outcome]]:
        """Leave a server out; what it had waits for another, before all else. What was alone with it has failed."""
        server.is_lost = True
        server.next_try, server.pause_seconds = time.monotonic(), FIRST_PAUSE_SECONDS
        failed: list[tuple[PreparedRequest, Outcome]] = []
        had = list(server.asked.values())
        await _cancel(server.asked)
        server.asked.clear()
        for asked in reversed(had):
            asked.losses += 1
            if asked.losses > MOST_LOSSES_TOGETHER:
                error = AnswerError(
                    f"{asked.losses} servers went away while they had it, the last with nothing else",
                    code="worker_lost",
                    hint="look into the server's log, then try it again with --existing retry-errors",
                )
                failed.append((asked.prepared, error))
            else:
                self._waiting.appendleft(asked)
        if not any(one.has_answered for one in self._servers):
            return failed  # nobody has seen it there
        elsewhere = "its requests are asked elsewhere" if self._has_any() else "waiting for it"
        _log.info("%s went away; %s", server.address, elsewhere)
        return failed

    def _has_any(self) -> bool:
        return any(not server.is_lost for server in self._servers)

    def _try_lost(self) -> None:
        """Ask servers that went away whether they are back. Raises ModelError where none has been there for long."""
        now = time.monotonic()
        for server in self._servers:
            if server.is_lost and server.trial is None and now >= server.next_try:
                server.trial = asyncio.ensure_future(server.backend.is_there())
        if self._has_any():
            self._alone_since = None
            return
        self._alone_since = self._alone_since or now
        if now - self._alone_since > self._wait_seconds:
            names = ", ".join(server.address for server in self._servers)
            raise ServerLost(
                f"no server has answered for {self._wait_seconds:g} s ({names})",
                hint="start one again, or wait longer with --server-wait",
            )

    def _read_trials(self) -> None:
        for server in self._servers:
            if server.trial is None or not server.trial.done():
                continue
            is_back = server.trial.result()
            server.trial = None
            if is_back:
                server.is_lost, server.seconds = False, 0.0
                _log.info("%s answers again", server.address)
            elif not self._has_any() and not any(one.has_answered for one in self._servers):
                assert self._last_loss is not None
                raise self._last_loss  # none was ever there: nothing is waited for
            else:
                server.next_try = time.monotonic() + server.pause_seconds
                server.pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * server.pause_seconds)

    async def _give_up(self) -> None:
        for server in self._servers:
            await _cancel([*server.asked, *([server.trial] if server.trial is not None else [])])
            server.asked.clear()
            server.trial = None


async def _cancel(tasks: Any) -> None:
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
