"""HTTP with one OpenAI-compatible server: bounded in seconds and bytes, tried again where that may help.

Failures that end the run (no server, no such model, a wrong key) are told apart from those of one request here. Knows
JSON, not its meaning.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2

from ... import __version__
from ...errors import AnswerError, ModelError, PromptError, ServerLost, UsageError
from ...http_retry import Retry, Transient, is_transient, parse_retry_after, say_connection_error
from ...url_secrets import hide_secrets

TIMEOUT_SECONDS = 300.0
"""How long one answer may take, where nobody said how long."""
CONNECT_SECONDS = 10.0
RETRY = Retry(attempts=4, backoff_seconds=0.5, max_retry_after_seconds=60.0)
MAX_BODY_BYTES = 64_000_000
KEY_VARIABLES = ("IDEFICS_API_KEY", "OPENAI_API_KEY")
_SAID_CHARACTERS = 200
_WAYS = (
    (("at most", "image"), "use fewer images or --shots, or start it with a larger --limit-mm-per-prompt"),
    (("mm_processor_kwargs",), "leave --detail out, or start it with --trust-request-mm-kwargs"),
    (("mm-kwargs",), "leave --detail out, or start it with --trust-request-mm-kwargs"),
    (("stop", "empty"), "leave the empty --stop out"),
    (("stop",), "use four --stop at most"),
    (("temperature",), "set --temperature 2 or less"),
    (("bad_words",), "use a newer server"),
)
"""Words of a refusal, and what to change where it has all of them."""
_TOO_LONG = ("context length", "context size", "context window", "too long", "maximum model length")


def parse_server(text: str) -> str:
    """The address of a server's API, `…/v1`. Raises UsageError if it is none."""
    try:
        url = httpx2.URL(text.strip())
    except (httpx2.InvalidURL, ValueError) as error:
        raise UsageError(f"--server: {hide_secrets(text.strip())!r} is not a URL") from error
    if url.userinfo:
        raise UsageError("--server has a password in it", hint=f"put the key into ${KEY_VARIABLES[0]}")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise UsageError(
            f"--server {hide_secrets(text.strip())!r} is not the address of a server",
            hint="write http://host:8000",
        )
    path = url.path.rstrip("/")
    return str(url.copy_with(path=path if path.endswith("/v1") else f"{path}/v1"))


def read_key() -> str | None:
    """The API key from the environment. Raises UsageError if it cannot be in a header."""
    key = next((value for name in KEY_VARIABLES if (value := os.environ.get(name, "").strip())), None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UsageError("the API key in the environment has characters that no key has", hint="copy it again")
    return key


class Connection:
    """Speaks to the server at `url`, from one event loop."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.timeout_seconds = timeout_seconds
        self._url = url
        key = read_key()
        try:
            self._client = httpx2.AsyncClient(
                headers={
                    "User-Agent": f"idefics/{__version__}",
                    **({"Authorization": f"Bearer {key}"} if key else {}),
                },
                timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=None),
            )
        except (ImportError, ValueError, OSError, ssl.SSLError, httpx2.InvalidURL) as error:
            raise ModelError(
                f"no connection to {url} can be made: {error}", hint="check the proxy in the environment"
            ) from error

    async def get(self, path: str, *, tries_again: bool = True) -> Any:
        retry = RETRY if tries_again else replace(RETRY, attempts=1)
        return await retry.ask(lambda: self._read("GET", path, None))

    async def post(self, path: str, body: dict[str, Any], *, is_of_api: bool = True) -> Any:
        """The server's JSON response. Raises ModelError for all requests, an ItemError for this one.

        Paths outside the API begin where the server's own path does.
        """
        path = path if is_of_api else f"../{path}"
        return await RETRY.ask(lambda: self._read("POST", path, body))

    async def post_for_events(self, path: str, body: dict[str, Any], on_event: Callable[[Any], bool]) -> Any | None:
        """Pass on each event of a stream; `on_event` returns whether its text was shown.

        A server that does not stream answers at once: its JSON is returned, None otherwise. After text was shown, the
        request is not tried again.
        """
        return await RETRY.ask(lambda: self._read_events(path, body, on_event))

    async def close(self) -> None:
        await self._client.aclose()

    async def _read(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        async with self._open(method, path, body) as response:
            return await self._read_json(response)

    async def _read_events(self, path: str, body: dict[str, Any], on_event: Callable[[Any], bool]) -> Any | None:
        has_shown = False
        try:
            async with self._open("POST", path, body) as response:
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    return await self._read_json(response)
                async for event in self._split_events(response):
                    has_shown = on_event(event) or has_shown
                return None
        except Transient as transient:
            if has_shown:
                raise transient.error from transient
            raise

    async def _split_events(self, response: httpx2.Response) -> AsyncIterator[Any]:
        size = 0
        async for line in response.aiter_lines():
            size += len(line)
            if size > MAX_BODY_BYTES:
                raise self._fail("sends an answer without end")
            name, _, data = line.partition(":")
            if name != "data":
                continue
            if data.strip() == "[DONE]":
                return
            try:
                yield json.loads(data)
            except (ValueError, RecursionError) as error:
                raise Transient(self._fail("streams what is not JSON")) from error

    async def _read_json(self, response: httpx2.Response) -> Any:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MAX_BODY_BYTES:
                raise self._fail("sends an answer without end")
        try:
            return json.loads(bytes(content))
        except (ValueError, RecursionError) as error:
            kind = response.headers.get("content-type", "something").partition(";")[0]
            raise Transient(self._fail(f"answers {kind} that is not JSON")) from error

    @asynccontextmanager
    async def _open(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[httpx2.Response]:
        """A response with status 200; errors before and while it is read are translated."""
        has_begun = False
        try:
            async with (
                asyncio.timeout(self.timeout_seconds),
                self._client.stream(method, self._locate(path), json=body) as response,
            ):
                has_begun = True
                if response.status_code != 200:
                    raise self._explain(response, await _read_said(response))
                yield response
        except TimeoutError as error:
            message = f"{self._url} took longer than {self.timeout_seconds:g} s"
            raise AnswerError(
                message, code="timeout", hint="set a longer --server-timeout or a smaller --max-new-tokens"
            ) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            message = f"no server answers at {self._url} ({say_connection_error(error)})"
            raise Transient(ServerLost(message, hint="start it, or check --server")) from error
        except httpx2.HTTPError as error:
            what = f"broke off ({error or type(error).__name__})"
            if not has_begun:  # as one that dies does; one that lives says something
                raise Transient(ServerLost(f"{self._url} {what}", hint="look into the server's log")) from error
            raise Transient(self._fail(what)) from error

    def _locate(self, path: str) -> str:
        if path.startswith("../"):
            return f"{self._url.removesuffix('/v1')}/{path.removeprefix('../')}"
        return f"{self._url}/{path}"

    def _explain(self, response: httpx2.Response, said: str) -> Exception:
        """The meaning of a status other than 200."""
        status = f"{response.status_code} {response.reason_phrase}".rstrip()
        told = f"{status}: {said}" if said else status
        if response.status_code in (401, 403):
            # What it said may repeat the key.
            return ModelError(f"{self._url} wants another API key ({status})", hint=f"set ${KEY_VARIABLES[0]}")
        if response.status_code == 404:
            return ModelError(
                f"{self._url} does not know this model or has no chat API ({told})",
                hint="--model takes one of the server's own names, --server the address before /v1",
            )
        if is_transient(response.status_code):
            pause = parse_retry_after(response.headers.get("retry-after"))
            return Transient(self._fail(f"answered {told}"), pause)
        if response.status_code == 413 or any(words in said.lower() for words in _TOO_LONG):
            return PromptError(
                f"{self._url} says the prompt is too long ({told})",
                code="prompt_too_long",
                hint="use fewer --shots, fewer images, a shorter text or a smaller --max-new-tokens",
            )
        hint = next((hint for words, hint in _WAYS if all(word in said.lower() for word in words)), "")
        return AnswerError(f"{self._url} refuses this request ({told})", code="refused", hint=hint)

    def _fail(self, what: str) -> AnswerError:
        return AnswerError(f"{self._url} {what}", code="fetch_failed")


async def _read_said(response: httpx2.Response) -> str:
    """The beginning of the server's error message, in one line."""
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > 100_000:
            break
    try:
        said = json.loads(bytes(content))
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and name in said:
                said = said[name]
    except (ValueError, RecursionError):
        return ""
    return " ".join(said.split())[:_SAID_CHARACTERS] if isinstance(said, str) else ""
