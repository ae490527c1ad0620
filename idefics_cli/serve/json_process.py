"""The process in which large bodies are parsed as JSON, so that they do not block the server."""

from __future__ import annotations

import itertools
import marshal
from typing import Any

from ..child_processes import IDLE_SECONDS, bound_memory, open_streams, receive, send, set_alarm
from ..errors import BadItem
from .json_shape import parse_shape

GRACE_SECONDS = 2
LONG_LETTERS = 1 << 18
OWN_BYTES = 100_000_000
MEMORY_TIMES = 6
"""How much more than a body reading it may take."""


def serve() -> None:
    """Answer questions from standard input on standard output."""
    source, sink = open_streams()
    while True:
        set_alarm(IDLE_SECONDS)
        try:
            asked, body = receive(source)
        except EOFError:
            return
        set_alarm(asked["seconds"] + GRACE_SECONDS)
        bound_memory(OWN_BYTES + MEMORY_TIMES * len(body))
        try:
            packed, texts = pack(parse_shape(body, asked["most_values"]))
        except BadItem as error:
            send(sink, {"problem": str(error)})
        except (MemoryError, RecursionError, ValueError):
            send(sink, {"problem": "the body takes too much memory to read"})
        else:
            send(sink, {"sizes": [len(packed), *map(len, texts)]}, packed, *texts)
            del packed, texts
        del body


def pack(value: Any) -> tuple[bytes, list[bytes]]:
    """A value as bytes, with its long texts apart."""
    texts: list[bytes] = []

    def take(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: take(inner) for key, inner in one.items()}
        if isinstance(one, list):
            return [take(inner) for inner in one]
        if isinstance(one, str) and len(one) > LONG_LETTERS and one.isascii():
            texts.append(one.encode("ascii"))
            return len(texts).to_bytes(4, "big")  # as no JSON has bytes
        return one

    return marshal.dumps(take(value)), texts


def unpack(message: bytes, sizes: list[int]) -> Any:
    """The value again. Each long text is decoded by itself, so that other threads run in between."""
    size, *others = sizes
    view, places = memoryview(message), itertools.accumulate(others, initial=size)
    texts = [str(view[place : place + other], "ascii") for place, other in zip(places, others, strict=False)]

    def put(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: put(inner) for key, inner in one.items()}
        if isinstance(one, list):
            return [put(inner) for inner in one]
        return texts[int.from_bytes(one, "big") - 1] if isinstance(one, bytes) else one

    value = marshal.loads(view[:size])
    return put(value) if texts else value
