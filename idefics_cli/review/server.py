"""The page over HTTP, for one browser.

Every address begins with a token that nobody can guess; calls under another host name or from another page are refused.
A call names rows by number: no path ever comes from a browser.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.requests import Request as Call
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import IdeficsError, SourceError, UsageError, describe_problems
from ..jsonl import dump_row
from .session import NEEDED, Action, Outdated, ReviewSession, View
from .thumbnails import EDGES, MEDIA_TYPE

HOST = "127.0.0.1"
STATIC = {
    "review.css": "text/css",
    **dict.fromkeys(("review.js", "source.js", "card.js", "grid.js", "detail.js"), "text/javascript"),
}
MAX_BODY_BYTES = 8_000_000
PICTURES_AT_ONCE = 2
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Undo(BaseModel):
    """Undo the last decision."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Decision(Undo):
    """An action on some rows, or on all rows of a view. `seen` has the versions that the page showed."""

    action: Action
    values: dict[str, str] = Field(default_factory=dict)
    generation: int
    rows: list[int] | None = None
    seen: dict[int, int] = Field(default_factory=dict)
    q: str = ""
    sort: str = ""
    stamp: int = 0

    @model_validator(mode="after")
    def _has_values(self) -> Decision:
        if set(self.values) != set(NEEDED.get(self.action, ())):
            raise ValueError(f"{self.action} needs {NEEDED.get(self.action, ())}")
        return self


T = TypeVar("T", bound=Undo)


def read_static(name: str) -> bytes:
    """A file of the page."""
    return (files(__package__) / "static" / name).read_bytes()


def make_token() -> str:
    return secrets.token_urlsafe(24)


def build(session: ReviewSession, token: str, port: int) -> ASGIApp:
    """The application at 127.0.0.1:`port`, under its token."""
    pictures = asyncio.Semaphore(PICTURES_AT_ONCE)

    async def send_page(call: Call) -> Response:
        return Response(read_static("index.html"), media_type="text/html")

    async def send_static(call: Call) -> Response:
        name = call.path_params["name"]
        if name not in STATIC:
            return _refuse(404, "there is no such file")
        return Response(read_static(name), media_type=STATIC[name], headers={"Cache-Control": "no-cache"})

    async def send_rows(call: Call) -> Response:
        given = call.query_params
        start, count = _number(given.get("start", "0")), _number(given.get("count", "60"))
        work = partial(session.show, _view(given), start, count, facets=given.get("facets") == "1")
        return _reply(await anyio.to_thread.run_sync(work))

    async def send_row(call: Call) -> Response:
        row = _number(call.path_params["row"])
        return _reply(await anyio.to_thread.run_sync(session.show_whole, row))

    async def send_picture(call: Call) -> Response:
        row, number = _number(call.path_params["row"]), _number(call.path_params["number"])
        size = call.path_params["size"]
        if size not in EDGES:
            return _refuse(404, "there is no such size")
        async with pictures:
            data = await anyio.to_thread.run_sync(session.picture, row, number, size)
        return Response(data, media_type=MEDIA_TYPE, headers={"Cache-Control": "private, max-age=3600"})

    async def decide(call: Call) -> Response:
        said = await _read_body(call, Decision)
        if said.generation != session.index.generation:
            raise Outdated("the file was replaced meanwhile")
        rows = said.rows
        if rows is None:
            rows = await anyio.to_thread.run_sync(session.rows_of, View(said.q, said.sort, said.stamp))
        work = partial(session.decide, rows, said.action, said.values, said.seen)
        changed = await anyio.to_thread.run_sync(work)
        return _reply({"changed": len(changed), "changes": session.changes})

    async def undo(call: Call) -> Response:
        await _read_body(call, Undo)
        return _reply({"changed": await anyio.to_thread.run_sync(session.undo), "changes": session.changes})

    async def fail(call: Call, error: Exception) -> Response:
        status = 409 if isinstance(error, Outdated) else 404 if isinstance(error, SourceError) else 400
        return _refuse(status, str(error))

    routes = [
        Route("/", send_page),
        Route("/static/{name}", send_static),
        Route("/rows", send_rows),
        Route("/rows/{row}", send_row),
        Route("/pictures/{size}/{row}/{number}", send_picture),
        Route("/decide", decide, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    handlers: Any = {IdeficsError: fail, Outdated: fail}
    return PageGuard(Starlette(routes=routes, exception_handlers=handlers), token, port)


class PageGuard:
    """Accepts calls of the page only, and sets the headers that restrict the page."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._prefix = f"/{token}"
        self._hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._judge(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        inner = dict(scope, path=scope["path"][len(self._prefix) :], raw_path=None)
        await self._app(inner, receive, send_guarded)

    def _judge(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if headers.get(b"host", b"").lower() not in self._hosts:
            return _refuse(421, "this server has another host name")
        origin = headers.get(b"origin")
        if origin not in (None, *self._origins) or (origin is None and scope["method"] not in ("GET", "HEAD")):
            return _refuse(403, "only the page itself may ask")
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return _refuse(403, "only the page itself may ask")
        given = scope["path"][: len(self._prefix) + 1]
        if not hmac.compare_digest(given.encode("utf-8", "replace"), f"{self._prefix}/".encode()):
            return _refuse(404, "there is no page here: open the whole address that was printed")
        return None


def open_socket(port: int) -> socket.socket:
    """A socket that only this machine can reach; port 0 is any free one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on port {port}: {reason}", hint="choose another --port") from error
    return listener


def serve(session: ReviewSession, listener: socket.socket, token: str, on_ready: Callable[[], None]) -> None:
    """Serve the page until the program is interrupted, and follow the growing files."""
    follower = threading.Thread(target=session.follow, daemon=True)
    follower.start()
    app = build(session, token, listener.getsockname()[1])
    config = uvicorn.Config(
        app, log_level="critical", timeout_graceful_shutdown=1, access_log=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    listener.listen(128)
    on_ready()
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        session.close()
        follower.join()


def _view(given: Mapping[str, str]) -> View:
    return View(given.get("q", ""), given.get("sort", ""), _number(given.get("stamp", "0")))


def _number(text: str) -> int:
    """A number from an address. Raises UsageError if it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise UsageError("that is not a row's number")
    return int(text)


async def _read_body(call: Call, kind: type[T]) -> T:
    """The body of a call. Raises UsageError if it is invalid or too large."""
    if call.headers.get("content-type") != "application/json":
        raise UsageError("the body is not JSON")
    body = bytearray()
    async for piece in call.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise UsageError(f"that is more than {MAX_BODY_BYTES:,} bytes", hint="correct it in the file")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise UsageError(f"the page does not make such a call: {describe_problems(error)}") from error


def _reply(content: Mapping[str, Any]) -> Response:
    return Response(dump_row(content), media_type="application/json", headers={"Cache-Control": "no-store"})


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
