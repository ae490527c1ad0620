"""The HTTP applications of a server: the API for TCP, and the same with the private routes for the Unix socket."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import BadItem, IdeficsError, ItemError, ModelError, describe_problems
from ..jsonl import dump_row, parse_value
from ..values import list_sources
from .batch_route import MAX_ITEMS, HouseBackend, answer_items, open_reader
from .call import CallError, PendingCall, read_body, refuse, translate, wait_until_gone, within
from .daemon_routes import list_private_routes
from .openai_schema import ChatCall, ChatReply
from .openapi import describe_api
from .request_images import load_images
from .scheduler import Refused
from .state import ServerState

HEALTH = "/health"
SMALL_BYTES = 100_000
"""A body that is parsed so fast that no thread is worth it."""
CLIENT_CLOSED = 499
"""What is counted for a client that hung up."""


def build_api(state: ServerState, *, api_key: str | None, hosts: Collection[str]) -> ASGIApp:
    """The API for TCP. `hosts` are the names it may be called by: a page of the web is not to reach it by another."""
    return Guard(_build(list_routes(state)), state, api_key=api_key, hosts=hosts)


def build_private(state: ServerState) -> ASGIApp:
    """What the Unix socket has, which only its user can reach."""
    return Guard(_build([*list_routes(state), *list_private_routes(state)]), state, api_key=None, hosts=())


def list_routes(state: ServerState) -> list[Route]:
    async def complete(call: Call) -> Response:
        deadline = state.next_deadline()
        with state.track_call():
            body = _validate(ChatCall, await within(state, deadline, _read_json(call, state)))
            if body.model not in (state.name, state.backend.spec.checkpoint):
                raise CallError(
                    404,
                    f"the model {body.model[:200]!r} is not served; this is {state.name}",
                    code="model_not_found",
                    param="model",
                )
            try:
                state.backend.check_style("chat")
            except ModelError as error:
                raise CallError(400, str(error), code="no_chat") from error
            request = body.to_request()
            images = await within(state, deadline, load_images(list_sources(request.prompt), state))
            pending = PendingCall(
                call, state, [request], images, streams=bool(body.stream), deadline=deadline
            )
            if body.stream:
                events = _stream(pending, ChatReply(state.name), state, wants_usage=body.wants_usage)
                # The first one is waited for: what fails before it has a status of its own.
                first = await anext(events)
                return StreamingResponse(_chain(first, events), media_type="text/event-stream")
            async with pending:
                (outcome,) = await pending.outcomes()
            if isinstance(outcome, ItemError):
                raise outcome
            return JSONResponse(ChatReply(state.name).complete(outcome))

    async def answer(call: Call) -> Response:
        deadline = state.next_deadline()
        with state.track_call():
            values = await within(state, deadline, _read_json(call, state))
            every = values if isinstance(values, list) else [values]
            if not all(isinstance(value, dict) for value in every) or not 0 < len(every) <= MAX_ITEMS:
                raise CallError(
                    400, f"the body is not an item (an object) or a list of 1 to {MAX_ITEMS} items"
                )
            reader = open_reader()
            items = list(reader.read_values(every))
            backend = HouseBackend(state)
            answering = partial(answer_items, items, reader, state, backend)
            work = asyncio.ensure_future(
                anyio.to_thread.run_sync(answering, limiter=state.callers, abandon_on_cancel=True)
            )
            gone = asyncio.ensure_future(wait_until_gone(call))
            try:
                either = asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                await within(state, deadline, either)
                if not work.done():
                    raise ClientDisconnect
                rows = await work
            finally:
                gone.cancel()
                backend.abandon()
        lines = [dump_row(row) for row in rows]
        content = f"[{','.join(lines)}]" if isinstance(values, list) else lines[0]
        return Response(content, media_type="application/json")

    async def list_models(call: Call) -> Response:
        entry = {"id": state.name, "object": "model", "created": 0, "owned_by": "idefics"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def tell_health(call: Call) -> Response:
        return JSONResponse(state.describe() | {"addresses": list(state.addresses)})

    async def tell_metrics(call: Call) -> Response:
        return PlainTextResponse(state.write_metrics(), media_type="text/plain; version=0.0.4")

    async def tell_document(call: Call) -> Response:
        return JSONResponse(describe_api())

    return [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/requests", answer, methods=["POST"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route(HEALTH, tell_health, methods=["GET"]),
        Route("/metrics", tell_metrics, methods=["GET"]),
        Route("/openapi.json", tell_document, methods=["GET"]),
    ]


class Guard:
    """Counts every call, and lets none in without the key or under a foreign name."""

    def __init__(
        self, app: ASGIApp, state: ServerState, *, api_key: str | None, hosts: Collection[str]
    ) -> None:
        self._app = app
        self._state = state
        # Digests are of one length, so comparing them tells nothing of the key.
        self._key = None if api_key is None else _digest(f"Bearer {api_key}".encode())
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status = CLIENT_CLOSED

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])
        refusal = self._check(scope["path"], headers)
        try:
            await (self._app if refusal is None else refusal)(scope, receive, sending)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        finally:
            route = scope.get("route")
            self._state.metrics.count_call(getattr(route, "path", "other"), status)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> Response | None:
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        name = (host[0] if host[1] and host[2].isdecimal() else "".join(host)).strip("[]").lower()
        if self._hosts and name not in self._hosts:
            return _respond(CallError(421, "the server is not called by this name", code="unknown_host"))
        if self._key is None or path == HEALTH:
            return None
        given = _digest(headers.get(b"authorization", b""))
        if hmac.compare_digest(given, self._key):
            return None
        return _respond(
            CallError(
                401,
                "the API key is missing or wrong",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        )


def _build(routes: Sequence[Route]) -> Starlette:
    async def tell(call: Call, error: Exception) -> Response:
        if isinstance(error, Refused):
            error = refuse(error)
        elif isinstance(error, IdeficsError):
            error = translate(error)
        elif isinstance(error, HTTPException):
            error = CallError(error.status_code, f"{call.method} {call.url.path}: {error.detail}")
        elif not isinstance(error, CallError):
            error = CallError(500, "the server failed; its log says why", kind="server_error")
        return _respond(error)

    async def ignore(call: Call, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    handlers: dict[Any, Any] = dict.fromkeys(
        (CallError, Refused, IdeficsError, HTTPException, Exception), tell
    )
    return Starlette(routes=list(routes), exception_handlers=handlers | {ClientDisconnect: ignore})


def _respond(error: CallError) -> Response:
    return JSONResponse(error.content, error.status, error.headers)


async def _read_json(call: Call, state: ServerState) -> Any:
    # A page of the web can send anything but this type without being asked for permission first.
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise CallError(415, "the body is not JSON; send it as Content-Type: application/json")
    if state.active_calls > state.rules.queue:
        raise refuse(Refused(is_ending=False))
    body = await read_body(call, state.rules.body_bytes)
    try:
        if len(body) < SMALL_BYTES:
            return parse_value(bytes(body), "the body")
        return await anyio.to_thread.run_sync(parse_value, bytes(body), "the body", limiter=state.loads)
    except BadItem as error:
        raise CallError(400, str(error)) from error


def _validate(kind: type[ChatCall], values: Any) -> ChatCall:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        if first["type"] == "extra_forbidden":
            raise CallError(
                400, f"{place} is not supported", code="unsupported_parameter", param=place
            ) from error
        raise CallError(400, describe_problems(error), param=place or None) from error


async def _stream(
    pending: PendingCall, reply: ChatReply, state: ServerState, *, wants_usage: bool
) -> AsyncIterator[str]:
    with state.track_call():
        async with pending:
            has_begun = False
            async for piece in pending.pieces():
                if not has_begun:
                    yield _event(reply.begin())
                    has_begun = True
                for chunk in reply.add(piece):
                    yield _event(chunk)
            try:
                (outcome,) = await pending.outcomes()
                if isinstance(outcome, ItemError):
                    raise translate(outcome)
            except CallError as error:
                if not has_begun:
                    raise
                yield _event(error.content)
                return
            if not has_begun:
                yield _event(reply.begin())
            for chunk in reply.end(outcome, wants_usage=wants_usage):
                yield _event(chunk)
            yield "data: [DONE]\n\n"


async def _chain(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in rest:
        yield event


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
