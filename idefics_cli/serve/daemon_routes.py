"""The routes of the Unix socket: commands of the same user and version use the model as if it were their own."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..backends.daemon.backend import ABILITIES, ANSWER, PREVIEW, SESSION, STOP, USES
from ..backends.daemon.protocol import (
    dump_end,
    dump_images,
    dump_line,
    dump_outcomes,
    dump_preview,
    read_value,
    unpack,
)
from ..backends.pool.answerer import AskedBatch
from ..errors import ModelError, to_item_error
from ..images import Limits
from ..values import Image, Request
from .body import count_declared, read_body, read_pieces
from .budget import MESSAGE_COPIES, Holding, OverBudget
from .call import RETRY_AFTER_SECONDS, CallError, PendingCall, refuse, wait_until_gone
from .job_queue import Refused
from .process_memory import count_resident_bytes
from .state import ServerState

ROOM_SECONDS = 0.05
"""How often a command that waits for room looks for it."""


def list_private_routes(state: ServerState) -> list[Route]:
    async def open_session(call: Call) -> Response:
        """Tell who this is; the server does not end while the response is open."""
        with Holding(state.budget) as holding:
            constraints = json.loads(b"".join(await read_body(call, 1_000_000, holding)))
        hello = state.describe()
        if difference := describe_difference(state.identity, constraints["identity"]):
            reason = f"the running server has {_name(state)} {difference}".rstrip()
            return JSONResponse({**hello, "message": reason})
        style = constraints["style"]
        try:
            if style is not None:
                state.check_style(style)
        except ModelError as error:
            return JSONResponse({**hello, "code": "model", "message": str(error)})
        if state.ending.is_set():
            return JSONResponse({**hello, "message": str(Refused(is_ending=True))})
        seconds = constraints["keep_alive_seconds"]
        if seconds is not None:
            state.keep_alive_seconds = math.inf if seconds == "forever" else float(seconds)
        return StreamingResponse(_hold(call, state, {**hello, "is_open": True}))

    async def answer(call: Call) -> Response:
        with ExitStack() as stack:
            requests, images, others = await _receive(call, state, stack)
            wanted = {"streams": bool(others["streams"]), "tells_each": bool(others["tells_each"])}
            if state.answerer is not None:
                batch = AskedBatch(requests, images, read_value(Limits, others["limits"]))
                return StreamingResponse(_answer_batch(call, state, batch, stack.pop_all()))
            return StreamingResponse(_answer(call, state, requests, images, stack.pop_all(), **wanted))

    async def preview(call: Call) -> Response:
        with ExitStack() as stack:
            requests, images, _ = await _receive(call, state, stack)
            shown = state.scheduler.call(lambda: state.backend.preview(requests[0], images))
            try:
                found = await asyncio.wrap_future(shown)
            except BaseException as error:
                return Response(dump_line({"outcomes": dump_outcomes([to_item_error(error)])}))
        return Response(dump_line({"preview": dump_preview(found)}))

    async def tell_abilities(call: Call) -> Response:
        return JSONResponse(asdict(state.abilities))

    async def tell_uses(call: Call) -> Response:
        return JSONResponse({**state.backend.measure(), "resident_bytes": count_resident_bytes()})

    async def stop(call: Call) -> Response:
        state.ending.set()
        return JSONResponse(state.describe())

    return [
        Route(SESSION, open_session, methods=["POST"]),
        Route(ANSWER, answer, methods=["POST"]),
        Route(PREVIEW, preview, methods=["POST"]),
        Route(ABILITIES, tell_abilities, methods=["GET"]),
        Route(USES, tell_uses, methods=["GET"]),
        Route(STOP, stop, methods=["POST"]),
    ]


def describe_difference(own: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """How the wanted weights differ from the loaded ones, as the end of a sentence; "" if they do not."""
    if own["checkpoint"] != asked["checkpoint"]:
        return "loaded"
    if changed := [name for name in own if name != "content" and own[name] != asked.get(name)]:
        return "loaded with another " + ", ".join(changed)
    return "loaded from files that have since changed" if own["content"] != asked["content"] else ""


async def _receive(
    call: Call, state: ServerState, stack: ExitStack
) -> tuple[list[Request], dict[str, Image], dict[str, Any]]:
    """The message of a command, read once there is room for all of it. The stack holds that room. Raises CallError."""
    holding = stack.enter_context(Holding(state.budget))
    declared = count_declared(call)
    while True:
        try:
            holding.grow(MESSAGE_COPIES * declared, is_own=True)
            break
        except OverBudget:
            if state.ending.is_set():
                raise refuse(Refused(is_ending=True)) from None
            await asyncio.sleep(ROOM_SECONDS)
    message = bytearray()
    async for piece in read_pieces(call):
        message += piece
        if len(message) > declared:
            raise CallError(413, "the message is longer than it says")
    try:
        return await asyncio.to_thread(unpack, message)
    except ValueError as error:
        raise CallError(400, str(error)) from error


async def _hold(call: Call, state: ServerState, hello: Mapping[str, Any]) -> AsyncIterator[bytes]:
    with state.track_call(is_session=True):
        yield dump_line(hello)
        ends = [asyncio.ensure_future(end) for end in (wait_until_gone(call), state.ending.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()


async def _answer(
    call: Call,
    state: ServerState,
    requests: list[Request],
    images: dict[str, Image],
    held: ExitStack,
    *,
    streams: bool,
    tells_each: bool,
) -> AsyncIterator[bytes]:
    """Lines: pieces of text, outcomes as they end, and finally all that were not told before, or why there are none."""
    try:
        with held, state.track_call():
            told = {"streams": streams, "tells_each": tells_each}
            async with PendingCall(call, state, requests, images, **told) as pending:
                async for event in pending.events():
                    yield dump_line({"text": event} if isinstance(event, str) else dump_end(*event))
                outcomes = await pending.outcomes()
                yield dump_line({"outcomes": [] if tells_each else dump_outcomes(outcomes)})
    except Refused as refusal:
        yield _tell(refuse(refusal))
    except CallError as error:
        yield _tell(error)


async def _answer_batch(call: Call, state: ServerState, batch: AskedBatch, held: ExitStack) -> AsyncIterator[bytes]:
    """The same for a worker, which reads images itself and reports their warnings."""
    assert state.answerer is not None
    with held, state.track_call():
        work = asyncio.wrap_future(state.answerer.submit(batch))
        gone = asyncio.ensure_future(wait_until_gone(call))
        try:
            ends: tuple[asyncio.Future[Any], ...] = (work, gone)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return
            try:
                reply = work.result()
            except BaseException as error:
                yield dump_line({"code": "model", "message": str(error)})
                return
            yield dump_line({"outcomes": dump_outcomes(reply.outcomes), "images": dump_images(reply.images)})
        finally:
            batch.abandon()
            gone.cancel()


def _tell(error: CallError) -> bytes:
    said = error.content["error"]
    retry = {"retry_after_seconds": RETRY_AFTER_SECONDS}
    return dump_line({"code": said["code"], "message": said["message"], **retry})


def _name(state: ServerState) -> str:
    return f"the model {state.name}"
