"""Bodies of calls: read within their time and the budget, and JSON parsed only if it is of a bounded shape.

Neither parsing nor validating lets another thread in for long, so what would take long is refused by counting first.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread
from starlette.requests import Request as Call

from ..errors import BadItem
from ..jsonl import parse_value
from .budget import BODY_COPIES, Holding
from .call import CallError, refuse
from .scheduler import Refused
from .state import ServerState

SMALL_BYTES = 10_000
"""A body that is parsed so fast that no thread is worth it."""
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
        if len(body) < SMALL_BYTES:
            return _parse(body, most_values)
        return await anyio.to_thread.run_sync(_parse, body, most_values, limiter=state.parses)
    except BadItem as error:
        raise CallError(400, str(error)) from error


async def read_body(call: Call, limit_bytes: int | None, holding: Holding | None = None) -> bytearray:
    """The body of a call. Raises CallError if it is larger than the limit or too slow, OverBudget."""
    too_large = CallError(413, f"the body has more than {limit_bytes:,} bytes" if limit_bytes else "")
    declared = call.headers.get("content-length", "")
    if limit_bytes is not None and declared.isdecimal() and int(declared[:20]) > limit_bytes:
        raise too_large
    body = bytearray()
    loop = asyncio.get_running_loop()
    began = loop.time()
    pieces = call.stream()
    while True:
        latest = PAUSE_SECONDS + len(body) / LEAST_BYTES_A_SECOND
        try:
            async with asyncio.timeout_at(min(loop.time() + PAUSE_SECONDS, began + latest)):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise CallError(408, "the body came too slowly", code="timeout") from None
        if piece is None:
            return body
        if holding is not None:
            holding.grow(BODY_COPIES * len(piece))
        body += piece
        if limit_bytes is not None and len(body) > limit_bytes:
            raise too_large


def _parse(body: bytearray, most_values: int) -> Any:
    if body.count(b",") + body.count(b":") > 2 * most_values:
        raise BadItem(f"the body has more than {most_values:,} values", hint="send it in several calls")
    return parse_value(bytes(body), "the body")
