"""The HTTP applications of a server: the API for TCP, and the same with private routes for the Unix socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import ExitStack
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
from starlette.types import ASGIApp

from ..errors import IdeficsError, ItemError, ModelError, describe_problems, name_place
from ..jsonl import dump_row
from ..values import list_sources
from .batch_route import MAX_ITEMS, MAX_KEYS, ServedBackend, answer_items, open_reader, reserve
from .body import read_json
from .budget import Holding, OverBudget
from .call import CallError, PendingCall, refuse, translate, unavailable, wait_until_gone, within
from .daemon_routes import list_private_routes
from .guard import CLIENT_CLOSED, HEALTH, Guard, respond
from .job_queue import Refused
from .openai_schema import ChatCall, ChatReply
from .openapi import describe_api
from .request_images import load_images
from .state import ServerState

CHAT_VALUES, ITEM_VALUES = 50_000, 200_000
"""Of the JSON of a call: parts of messages, and labels of items, are many."""


def build_api(state: ServerState, *, api_key: str | None, hosts: Collection[str]) -> ASGIApp:
    """The API for TCP. `hosts` are the names by which it may be called: no web page reaches it by another."""
    return Guard(_build(list_routes(state)), state, api_key=api_key, hosts=hosts)


def build_private(state: ServerState) -> ASGIApp:
    """The routes of the Unix socket, which only its user can reach."""
    return Guard(_build([*list_routes(state), *list_private_routes(state)]), state, api_key=None, hosts=())


def list_routes(state: ServerState) -> list[Route]:
    async def complete(call: Call) -> Response:
        deadline = state.next_deadline()
        with ExitStack() as stack:
            stack.enter_context(state.track_call())
            holding = stack.enter_context(Holding(state.budget))
            reading = read_json(call, state, holding, most_values=CHAT_VALUES)
            body = _validate(ChatCall, await within(state, deadline, reading))
            _check_model(body.model, state)
            try:
                state.check_style("chat")
            except ModelError as error:
                raise CallError(400, str(error), code="no_chat") from error
            # A schema is compiled, which takes a while.
            wording = partial(body.to_requests, has_system_role=state.abilities.has_system_role)
            requests = await anyio.to_thread.run_sync(wording, limiter=state.parses)
            if body.stream and (len(requests) > 1 or body.logprobs):
                raise CallError(400, "n above 1 and logprobs do not work with `stream: true`", param="stream")
            request = requests[0]
            state.check_letters(request)
            loading = load_images(list_sources(request.prompt), state, holding)
            images = await within(state, deadline, loading)
            pending = PendingCall(call, state, requests, images, streams=bool(body.stream), deadline=deadline)
            if body.stream:
                held = stack.pop_all()
                events = _stream(pending, ChatReply(state.name), state, held, wants_usage=body.wants_usage)
                # The first one is waited for: what fails before it has a status of its own.
                first = await anext(events)
                return StreamingResponse(_chain(first, events), media_type="text/event-stream")
            async with pending:
                outcomes = await pending.outcomes()
            answers = [outcome for outcome in outcomes if not isinstance(outcome, ItemError)]
            if failed := next((outcome for outcome in outcomes if isinstance(outcome, ItemError)), None):
                raise failed
            return JSONResponse(ChatReply(state.name).complete(answers))

    async def answer(call: Call) -> Response:
        deadline = state.next_deadline()
        with state.track_call(), Holding(state.budget) as holding:
            reading = read_json(call, state, holding, most_values=ITEM_VALUES)
            values = await within(state, deadline, reading)
            every = values if isinstance(values, list) else [values]
            if not isinstance(values, dict | list) or not 0 < len(every) <= MAX_ITEMS:
                raise CallError(400, f"the body is not an item (an object) or a list of 1 to {MAX_ITEMS} items")
            reader = open_reader()
            items = await anyio.to_thread.run_sync(
                lambda: list(reader.read_values(every, most_keys=MAX_KEYS)), limiter=state.parses
            )
            reserving = partial(reserve, items, state, holding)
            await within(state, deadline, anyio.to_thread.run_sync(reserving, limiter=state.loads))
            backend = ServedBackend(state)
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
            # Rows name their images, which are in their names.
            dumping = partial(_dump_rows, rows, is_list=isinstance(values, list))
            content = await anyio.to_thread.run_sync(dumping, limiter=state.callers)
        return Response(content, media_type="application/json")

    async def list_models(call: Call) -> Response:
        return JSONResponse({"object": "list", "data": [_describe_model(state)]})

    async def show_model(call: Call) -> Response:
        _check_model(call.path_params["id"], state)
        return JSONResponse(_describe_model(state))

    async def tell_health(call: Call) -> Response:
        return JSONResponse(state.describe() | {"addresses": list(state.addresses)})

    async def tell_metrics(call: Call) -> Response:
        # Workers are asked what they hold.
        text = await anyio.to_thread.run_sync(state.write_metrics, limiter=state.tellers)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def tell_document(call: Call) -> Response:
        return JSONResponse(describe_api())

    return [
        Route("/v1/chat/completions", complete, methods=["POST"]),
        Route("/v1/requests", answer, methods=["POST"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{id:path}", show_model, methods=["GET"]),
        Route(HEALTH, tell_health, methods=["GET"]),
        Route("/metrics", tell_metrics, methods=["GET"]),
        Route("/openapi.json", tell_document, methods=["GET"]),
    ]


def _check_model(name: str, state: ServerState) -> None:
    if name not in (state.name, state.backend.spec.checkpoint):
        raise CallError(
            404,
            f"the model {name[:200]!r} is not served; this is {state.name}",
            code="model_not_found",
            param="model",
        )


def _describe_model(state: ServerState) -> dict[str, Any]:
    return {"id": state.name, "object": "model", "created": 0, "owned_by": "idefics"}


def _build(routes: Sequence[Route]) -> Starlette:
    async def tell(call: Call, error: Exception) -> Response:
        if isinstance(error, Refused):
            error = refuse(error)
        elif isinstance(error, OverBudget):
            error = unavailable("all memory for calls is in use (--max-memory-in-flight)", "busy")
        elif isinstance(error, IdeficsError):
            error = translate(error)
        elif isinstance(error, HTTPException):
            error = CallError(error.status_code, f"{call.method} {call.url.path}: {error.detail}")
        elif not isinstance(error, CallError):
            error = CallError(500, "the server failed; its log says why", kind="server_error")
        return respond(error)

    async def ignore(call: Call, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    handlers: dict[Any, Any] = dict.fromkeys(
        (CallError, Refused, OverBudget, IdeficsError, HTTPException, Exception), tell
    )
    return Starlette(routes=list(routes), exception_handlers=handlers | {ClientDisconnect: ignore})


def _validate(kind: type[ChatCall], values: Any) -> ChatCall:
    if isinstance(values, dict) and (unknown := next((key for key in values if key not in kind.model_fields), None)):
        raise CallError(400, f"{unknown[:200]} is not supported", code="unsupported_parameter", param=unknown[:200])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = name_place(first)
        if first["type"] == "extra_forbidden":
            raise CallError(400, f"{place} is not supported", code="unsupported_parameter", param=place) from error
        raise CallError(400, describe_problems(error), param=place or None) from error


async def _stream(
    pending: PendingCall, reply: ChatReply, state: ServerState, held: ExitStack, *, wants_usage: bool
) -> AsyncIterator[str]:
    with held:
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


def _dump_rows(rows: Sequence[dict[str, Any]], *, is_list: bool) -> bytes:
    lines = [dump_row(row) for row in rows]
    return (f"[{','.join(lines)}]" if is_list else lines[0]).encode()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
