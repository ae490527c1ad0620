"""The backend that asks an OpenAI-compatible server: vLLM, llama.cpp, ollama, a cluster's gateway.

Sends only the requests, to no other address. Needs no torch and no checkpoint on this machine.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import ItemError, ModelError, PromptError, ServerLost, to_item_error
from ...lru import LRUCache
from ...models.families.layout import lay_out, read_aloud
from ...values import Answer, Image, ModelSpec, Request, list_sources
from ..backend import Outcome, Preview
from .client import TIMEOUT_SECONDS, Connection
from .logprobs import check_ranking
from .payload import (
    DIALECTS,
    Dialect,
    check_prompt,
    needs_dialect,
    write_chat,
    write_detail,
    write_messages,
    write_thinking,
)
from .remote_ranking import RemoteRanking
from .reply import ServerReply, ThoughtFilter

PICTURE_CACHE_BYTES = 128_000_000
"""Encoded images that are kept: those of the shots and of a conversation come again with every request."""


def find_model(servers: Sequence[str], named: str | None = None) -> str:
    """The model that all servers have: the named one, or the first of each. Raises ModelError.

    At least one server must answer; the others may be found later.
    """
    return asyncio.run(_find_model(servers, named))


async def _find_model(servers: Sequence[str], named: str | None) -> str:
    told = await asyncio.gather(*map(_list_ids, servers), return_exceptions=True)
    found: list[tuple[str, str]] = []
    for server, ids in zip(servers, told, strict=True):
        if isinstance(ids, ServerLost) and len(servers) > 1:
            continue
        if isinstance(ids, BaseException):
            raise ids
        if not ids:
            raise ModelError(f"{server} has no model", hint="load one there, or name one with --model")
        found.append((server, named if named in ids else ids[0]))
    if not found:
        raise ModelError(f"no server answers, of {', '.join(servers)}", hint="start one, or check --server")
    first, wanted = found[0][0], named or found[0][1]
    for server, model in found:
        if model != wanted:
            mine = f"{server} has {model}"
            raise ModelError(
                f"{mine}, not {named}" if named else f"{mine}, and {first} has {wanted}",
                hint="ask servers of one model, which --model names where they have several",
            )
    return wanted


async def _list_ids(server: str) -> list[str]:
    connection = Connection(server, timeout_seconds=30.0)
    try:
        return [str(one["id"]) for one in await _list_models(connection, server)]
    finally:
        await connection.close()


async def _list_models(connection: Connection, server: str) -> list[Mapping[str, Any]]:
    try:
        answer = await connection.get("models")
    except ItemError as error:
        raise ModelError(str(error), hint="name a model with --model, or check --server") from error
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, list) or not all(isinstance(one, Mapping) and one.get("id") for one in data):
        raise ModelError(f"{server} does not list its models as an OpenAI-compatible server does")
    return data


class RemoteBackend:
    """Answers requests through one server. `spec.checkpoint` is the server's name of the model."""

    def __init__(self, spec: ModelSpec, runner: asyncio.Runner) -> None:
        self._spec = spec
        (self._server,) = spec.servers
        # One loop for all calls, so that connections stay open between them. It is closed by whoever made it.
        self._runner = runner
        self._connection = Connection(self._server)
        self._learning = asyncio.Lock()
        self._dialect: Dialect | None = None
        self._most_tokens: int | None = None
        self._pictures: LRUCache[str, str] = LRUCache(PICTURE_CACHE_BYTES)
        self._ranking = RemoteRanking(self._connection, spec.checkpoint)

    def limit_seconds(self, timeout_seconds: float | None) -> None:
        """The longest time for each answer."""
        self._connection.timeout_seconds = timeout_seconds or TIMEOUT_SECONDS

    def stream(self, request: Request, images: Mapping[str, Image], on_text: Callable[[str], None]) -> Outcome:
        """Answer one request whose answer is shown while it is written."""
        assert not request.choices, "only a request without choices can be streamed"
        return self._runner.run(self.ask(request, images, on_text))

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        """The messages of a request; only the server knows how it lays them out."""
        check_prompt(request.prompt)
        names = {source: source for source in list_sources(request.prompt)}
        return Preview(json.dumps(write_messages(request.prompt, names), ensure_ascii=False, indent=1))

    def close(self) -> None:
        self._pictures.clear()
        self._runner.run(self._connection.close())

    async def is_there(self) -> bool:
        """Whether the server answers, and still lists the model if it has a list."""
        try:
            told = await self._connection.get("models", tries_again=False)
        except (ServerLost, ItemError):
            return False
        except ModelError:  # it answers, but lists no models
            return True
        data = told.get("data") if isinstance(told, Mapping) else None
        names = [one.get("id") for one in data or () if isinstance(one, Mapping)]
        return not names or self._spec.checkpoint in names

    async def ask(
        self, request: Request, images: Mapping[str, Image], on_text: Callable[[str], None] | None = None
    ) -> Outcome:
        """Answer one request. Raises ModelError for a failure that is not the request's: ServerLost if the server does
        not answer.
        """
        async with self._learning:
            if self._dialect is None:
                self._dialect = await self._find_dialect(request)
        try:
            return await self._answer(request, images, on_text)
        except BaseException as error:  # a cancellation goes through
            return to_item_error(error)

    async def _answer(
        self, request: Request, images: Mapping[str, Image], on_text: Callable[[str], None] | None
    ) -> Answer:
        check_prompt(request.prompt)
        sources = dict.fromkeys(list_sources(request.prompt))
        assert sources or not request.images, "a request never runs without its image"
        began = time.perf_counter()
        urls = {source: await self._encode(images[source]) for source in sources}
        said = read_aloud(lay_out(request.prompt, strip_turns=False))
        if request.choices:
            check_ranking(self._dialect or Dialect())
            answer = await self._ranking.rank(request, urls)
        else:
            thinks = self._choose_thinking(request)
            body = write_chat(request, urls, self._dialect or Dialect())
            body |= write_thinking(thinks, self._dialect or Dialect())
            if self._spec.detail is not None and urls:
                body |= write_detail(self._spec.detail, self._spec.checkpoint, self._dialect or Dialect())
            self._check_room(request.decoding.max_new_tokens)
            reply = await self._generate(body, ServerReply(ThoughtFilter(is_asked=bool(thinks))), on_text)
            self._check_whole(reply, request.decoding.max_new_tokens)
            answer = Answer(
                text=reply.text, finish_reason=reply.close(), usage=reply.usage, confidence=reply.confidence
            )
        space = " " if request.choices or answer.text[:1].isalnum() else ""
        return replace(answer, full_text=f"{said}{space}{answer.text}", seconds=time.perf_counter() - began)

    def _choose_thinking(self, request: Request) -> bool | None:
        """Whether the model is told to think, or not to; None leaves it to the server."""
        is_told = bool(dict(self._spec.others).get("think"))
        if request.think is None and not is_told:
            return None
        return not request.is_bound and (is_told if request.think is None else request.think)

    async def _generate(
        self, body: dict[str, Any], reply: ServerReply, on_text: Callable[[str], None] | None
    ) -> ServerReply:
        body = {"model": self._spec.checkpoint, **body}
        if on_text is None:
            reply.add(await self._connection.post("chat/completions", body))
            return reply

        def take(event: Any) -> bool:
            piece = reply.add(event)
            if piece:
                on_text(piece)
            return bool(piece)

        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if (whole := await self._connection.post_for_events("chat/completions", body, take)) is not None:
            take(whole)
        return reply

    def _check_room(self, new_tokens: int) -> None:
        """Raise PromptError if the model has no room for such an answer, whatever the prompt."""
        if self._most_tokens is not None and new_tokens >= self._most_tokens:
            raise PromptError(
                f"an answer of {new_tokens:,} tokens leaves no room for a prompt: the server's model has "
                f"{self._most_tokens:,}",
                code="prompt_too_long",
                hint="set a smaller --max-new-tokens",
            )

    def _check_whole(self, reply: ServerReply, new_tokens: int) -> None:
        """Raise PromptError for an answer that was cut off at the end of the model's context, as vLLM does silently."""
        usage = reply.usage
        asked = usage.prompt_tokens + new_tokens
        is_cut = reply.finish_reason == "length" and usage.new_tokens < new_tokens
        if self._most_tokens is not None and is_cut and asked > self._most_tokens:
            raise PromptError(
                f"the prompt has {usage.prompt_tokens:,} tokens, which leaves {usage.new_tokens:,} of the model's "
                f"{self._most_tokens:,} for an answer of {new_tokens:,}",
                code="prompt_too_long",
                hint="use fewer --shots, fewer images, a shorter text or a smaller --max-new-tokens",
            )

    async def _find_dialect(self, request: Request) -> Dialect:
        """What kind of server it is, by its list of models; a server without a list counts as any other."""
        try:
            models = await _list_models(self._connection, self._server)
        except ServerLost:
            raise
        except ModelError:
            if needs_dialect(request) or self._choose_thinking(request):
                raise
            return Dialect()
        mine = next((one for one in models if one["id"] == self._spec.checkpoint), models[0] if models else {})
        most = mine.get("max_model_len")
        self._most_tokens = most if isinstance(most, int) and 0 < most < 2**53 else None
        return DIALECTS.get(str(mine.get("owned_by")), Dialect())

    async def _encode(self, image: Image) -> str:
        """The image as a data URL, the same for the same pixels."""
        url = self._pictures.find(image.digest)
        if url is None:
            url = await asyncio.to_thread(_encode, image)
            self._pictures.keep(image.digest, url, len(url))
        return url


def _encode(image: Image) -> str:
    written = io.BytesIO()
    image.pixels.save(written, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(written.getbuffer()).decode('ascii')}"
