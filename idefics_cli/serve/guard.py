"""The check before all routes: every call is counted, and refused without the key or with a foreign Host header."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .call import CallError
from .state import ServerState

HEALTH = "/health"
CLIENT_CLOSED = 499
"""What is counted for a client that hung up."""
_PORT = re.compile(r":[0-9]*\Z")


class Guard:
    """Counts every call, and refuses those without the key or with a foreign Host header."""

    def __init__(self, app: ASGIApp, state: ServerState, *, api_key: str | None, hosts: Collection[str]) -> None:
        self._app = app
        self._state = state
        # Digests are of one length, so comparing them tells nothing of the key.
        self._key = None if api_key is None else _digest(api_key.encode())
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
        # A port may be empty; an address of IPv6 has its colons in brackets.
        name = _PORT.sub("", headers.get(b"host", b"").decode("latin-1").strip()).strip("[]").lower()
        if self._hosts and name not in self._hosts:
            return respond(CallError(421, "the Host header does not name this server", code="unknown_host"))
        if self._key is None or path == HEALTH:
            return None
        scheme, _, given = headers.get(b"authorization", b"").strip().partition(b" ")
        if hmac.compare_digest(_digest(given.strip()), self._key) and scheme.lower() == b"bearer":
            return None
        return respond(
            CallError(
                401,
                "the API key is missing or wrong",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        )


def respond(error: CallError) -> Response:
    return JSONResponse(error.content, error.status, error.headers)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
