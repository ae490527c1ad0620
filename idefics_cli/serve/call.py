"""One HTTP request and the job it waits for: its pieces of text, its outcomes, and what ends it early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as Call

from ..backends import Outcome
from ..errors import IdeficsError, to_item_error
from ..values import Image, Request
from .job_queue import Refused
from .jobs import Job, Outcomes, make_job
from .state import ServerState

RETRY_AFTER_SECONDS = 1

Ended = tuple[int, Outcome]
"""An outcome, after the number of its request."""
T = TypeVar("T")


class CallError(Exception):
    """An error response: the status and the message, as in the OpenAI API."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unavailable(message: str, code: str) -> CallError:
    """503: the same request may succeed later."""
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return CallError(503, message, code=code, kind="server_error", headers=retry)


def timed_out(state: ServerState) -> CallError:
    return unavailable(f"no answer within {state.rules.timeout_seconds:g} seconds", "timeout")


async def within(state: ServerState, deadline: float, work: Awaitable[T]) -> T:
    """The result of a task. Raises CallError after the deadline, in the time of the event loop."""
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        raise timed_out(state) from None


def refuse(refusal: Refused) -> CallError:
    return unavailable(str(refusal), refusal.code)


def translate(error: IdeficsError) -> CallError:
    """An error of ours as a response: the client's fault if one item failed, else the server's."""
    if error.exit_code == 3:
        return unavailable(str(error), error.code)
    return CallError(400, str(error), code=error.code)


class PendingCall:
    """A job in the queue while its client waits for it. An async context manager.

    A CallError ends it early; a client that disconnects raises ClientDisconnect.
    """

    def __init__(
        self,
        call: Call,
        state: ServerState,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        *,
        streams: bool = False,
        tells_each: bool = False,
        deadline: float | None = None,
    ) -> None:
        self._call = call
        self._state = state
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[str | Ended | None] = asyncio.Queue()
        self._job: Job = make_job(
            requests, images, self._tell if streams else None, self._tell_end if tells_each else None
        )

    async def __aenter__(self) -> PendingCall:
        try:
            self._state.scheduler.submit(self._job)
        except Refused as refusal:
            raise refuse(refusal) from None
        self._job.outcomes.add_done_callback(lambda _: self._tell(None))
        self._gone = asyncio.ensure_future(wait_until_gone(self._call))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._job.abandon()
        self._gone.cancel()
        with suppress(asyncio.CancelledError):
            await self._gone

    async def events(self) -> AsyncIterator[str | Ended]:
        """The text of the first request while it is generated, and each outcome, if they are wanted."""
        while (event := await self._next()) is not None:
            yield event

    async def pieces(self) -> AsyncIterator[str]:
        """The text of the first request while it is generated."""
        async for event in self.events():
            if isinstance(event, str):
                yield event

    async def outcomes(self) -> Outcomes:
        """The outcomes of the requests, once all of them are complete."""
        if not self._job.outcomes.done():
            async for _ in self.events():
                pass
        try:
            return self._job.outcomes.result()
        except IdeficsError as error:
            raise translate(error) from error
        except BaseException as error:
            raise translate(to_item_error(error)) from error

    async def _next(self) -> str | Ended | None:
        event = asyncio.ensure_future(self._events.get())
        try:
            left = None if self._deadline is None else max(0.0, self._deadline - self._loop.time())
            await asyncio.wait({event, self._gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return event.result()
        finally:
            event.cancel()
        if self._gone.done():
            raise ClientDisconnect
        raise timed_out(self._state)

    def _tell_end(self, number: int, outcome: Outcome) -> None:
        self._tell((number, outcome))

    def _tell(self, event: str | Ended | None) -> None:
        """Called in any thread."""
        with suppress(RuntimeError):  # the loop has ended before the answer
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


async def wait_until_gone(call: Call) -> None:
    """Return when the client has disconnected; only after its body was read."""
    message: Any = None
    while message is None or message["type"] != "http.disconnect":
        message = await call.receive()
