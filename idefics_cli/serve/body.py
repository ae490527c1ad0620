"""Request bodies: read within a time and the memory budget, and parsed without blocking the server.

Parsing and validating block all other threads, so large bodies are parsed in a child process, and values that would
take long to validate are counted and refused first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request as Call

from ..child_processes import ChildProcesses, ask, end
from ..errors import BadItem
from .budget import BODY_COPIES, Holding, OverBudget
from .call import CallError, refuse
from .job_queue import Refused
from .json_process import unpack
from .json_shape import parse_shape
from .state import ServerState

SMALL_BYTES, LARGE_BYTES = 10_000, 1_000_000
"""Bodies that are parsed so fast that no thread is worth it, and those for which a thread is not enough."""
PARSE_SECONDS = 20.0
LINGER_SECONDS = 5.0
"""How long a body that is refused is still taken in, and let go: who is sending listens only when all is sent."""
PAUSE_SECONDS = 15.0
"""The longest that a client may send nothing in the middle of a body."""
LEAST_BYTES_A_SECOND = 20_000
"""And how fast it is to send at least, after the first pause."""


async def read_json(call: Call, state: ServerState, holding: Holding, *, most_values: int) -> Any:
    """The JSON of a body. Raises CallError, OverBudget, and ClientDisconnect."""
    # A page of the web can send anything but this type without being asked for permission first.
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise CallError(415, "the body is not JSON; send it as Content-Type: application/json")
    if state.active_calls > state.rules.queue:
        raise refuse(Refused(is_ending=False))
    reading = asyncio.ensure_future(read_body(call, state.rules.body_bytes, holding))
    ending = asyncio.ensure_future(state.ending.wait())
    try:
        await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():  # nothing of it is in hand yet
            raise refuse(Refused(is_ending=True))
        body = reading.result()
    finally:
        reading.cancel()
        ending.cancel()
    try:
        size = sum(map(len, body))
        if size < SMALL_BYTES:
            return parse_shape(b"".join(body), most_values)
        parse = _parse_here if size < LARGE_BYTES else partial(parse_elsewhere, state.readers)
        return await anyio.to_thread.run_sync(parse, body, most_values, limiter=state.parses)
    except BadItem as error:
        raise CallError(400, str(error)) from error


async def read_body(call: Call, limit_bytes: int, holding: Holding) -> list[bytes]:
    """The body of a request, in pieces. Raises CallError if it is larger than the limit or too slow, OverBudget."""
    too_large = CallError(413, f"the body has more than {limit_bytes:,} bytes")
    if count_declared(call) > limit_bytes:
        raise too_large
    body: list[bytes] = []
    size = 0
    pieces = read_pieces(call)
    async for piece in pieces:
        try:
            holding.grow(BODY_COPIES * len(piece))
        except OverBudget:
            body.clear()
            holding.close()
            await _let_go(pieces, limit_bytes)
            raise
        body.append(piece)
        size += len(piece)
        if size > limit_bytes:
            raise too_large
    return body


async def read_pieces(call: Call) -> AsyncIterator[bytes]:
    """The body of a request while it arrives. Raises CallError if it is too slow."""
    loop = asyncio.get_running_loop()
    began, size = loop.time(), 0
    pieces = call.stream()
    while True:
        latest = PAUSE_SECONDS + size / LEAST_BYTES_A_SECOND
        try:
            async with asyncio.timeout_at(min(loop.time() + PAUSE_SECONDS, began + latest)):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise CallError(408, "the body came too slowly", code="timeout") from None
        if piece is None:
            return
        size += len(piece)
        yield piece


def count_declared(call: Call) -> int:
    """The `Content-Length` of a request, 0 if it has none."""
    declared = call.headers.get("content-length", "")
    return int(declared[:20]) if declared.isdecimal() else 0


async def _let_go(pieces: AsyncIterator[bytes], limit_bytes: int) -> None:
    """Read and drop the rest of a body, for a while."""
    size = 0
    with suppress(CallError, TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            async for piece in pieces:
                size += len(piece)
                if size > limit_bytes:
                    return


def _parse_here(body: list[bytes], most_values: int) -> Any:
    return parse_shape(b"".join(body), most_values)


def parse_elsewhere(
    readers: ChildProcesses, body: list[bytes], most_values: int, seconds: float = PARSE_SECONDS
) -> Any:
    """The value of a body, which is emptied, parsed in a child process. Raises BadItem."""
    asked = {"most_values": most_values, "seconds": seconds}
    while True:
        process, is_used = readers.take()
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            reply, message = ask(process, asked, *body)
        except (OSError, EOFError, ValueError):
            end(process)
            if is_used and timer.is_alive():
                continue  # it may have ended by itself, in the moment it was taken
            raise BadItem("the body takes too long to read") from None
        except BaseException:
            end(process)
            raise
        finally:
            timer.cancel()
        readers.keep(process)
        body.clear()
        if "problem" in reply:
            raise BadItem(reply["problem"])
        return unpack(message, reply["sizes"])
