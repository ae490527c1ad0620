"""Requests, images and answers as bytes, for the socket between a command and a running server.

A message is one line of JSON, then the pixels of its images, then the files that are still to be decoded. Values are
sent with all their fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import PIL.Image
from pydantic import TypeAdapter

from ...content import Content
from ...errors import ItemError
from ...images import leave_unread
from ...values import Answer, Image, Request
from ..backend import Outcome, Preview

CHANNELS = 3


@cache
def _adapt(kind: Any) -> TypeAdapter[Any]:
    """Converts values of a type to JSON and back; made when it is first needed."""
    return TypeAdapter(kind)


def pack(requests: Sequence[Request], images: Mapping[str, Image], **others: Any) -> list[bytes]:
    """The pieces of a message: requests and the images of their sources, each distinct image once."""
    distinct = {image.digest: image for image in images.values() if image.digest}
    unread = {source: image.data for source, image in images.items() if not image.digest}
    head = {
        "requests": _adapt(list[Request]).dump_python(list(requests)),
        "sources": {source: image.digest for source, image in images.items() if image.digest},
        "sizes": {digest: image.pixels.size for digest, image in distinct.items()},
        **({"unread": {source: data and len(data) for source, data in unread.items()}} if unread else {}),
        **others,
    }
    files = [data for data in unread.values() if data]
    return [dump_line(head), *(image.pixels.tobytes() for image in distinct.values()), *files]


def unpack(message: bytes | bytearray) -> tuple[list[Request], dict[str, Image], dict[str, Any]]:
    """Requests, images by source and other values. Raises ValueError if it is no such message."""
    end = message.index(b"\n")
    rest = memoryview(message)[end + 1 :]
    try:
        head = dict(json.loads(message[:end]))
        requests = _adapt(list[Request]).validate_python(head.pop("requests"))
        sources = _adapt(dict[str, str]).validate_python(head.pop("sources"))
        pixels: dict[str, PIL.Image.Image] = {}
        for digest, (width, height) in _adapt(dict[str, tuple[int, int]]).validate_python(head.pop("sizes")).items():
            size = width * height * CHANNELS
            pixels[digest] = PIL.Image.frombytes("RGB", (width, height), rest[:size])
            rest = rest[size:]
        images = {source: Image(source, pixels[digest], digest) for source, digest in sources.items()}
        for source, size in head.pop("unread", {}).items():
            images[source] = leave_unread(source, None if size is None else bytes(rest[:size]))
            rest = rest[size or 0 :]
    except (LookupError, TypeError) as error:
        raise ValueError(f"not a message: {error!r}") from error
    if rest:
        raise ValueError("not a message: there are bytes after its pixels")
    return requests, images, head


def dump_outcomes(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "message": str(one)} if isinstance(one, ItemError) else _adapt(Answer).dump_python(one)
        for one in outcomes
    ]


def read_outcomes(values: Iterable[Mapping[str, Any]]) -> list[Outcome]:
    return [
        ItemError(one["message"], code=one["code"]) if "code" in one else _adapt(Answer).validate_python(one)
        for one in values
    ]


def dump_end(number: int, outcome: Outcome) -> dict[str, Any]:
    """The outcome of one of several requests."""
    return {"number": number, "outcomes": dump_outcomes([outcome])}


def dump_preview(preview: Preview) -> dict[str, Any]:
    dumped: dict[str, Any] = _adapt(Preview).dump_python(preview)
    return dumped


def read_preview(value: Mapping[str, Any]) -> Preview:
    preview: Preview = _adapt(Preview).validate_python(value)
    return preview


def read_value(kind: Any, value: Any) -> Any:
    """A value of a type from JSON. Raises ValueError if it does not match."""
    return _adapt(kind).validate_python(value)


def dump_images(images: Mapping[str, Image]) -> dict[str, Any]:
    """What was seen of images that were read, by their sources."""
    return {
        source: [image.digest, image.warnings, image.content and asdict(image.content)]
        for source, image in images.items()
    }


def build_images(values: Mapping[str, Any]) -> dict[str, Image]:
    return {
        source: replace(
            leave_unread(source, content=content and read_value(Content, content)),
            digest=digest,
            warnings=tuple(warnings),
        )
        for source, (digest, warnings, content) in values.items()
    }


def dump_line(value: Mapping[str, Any]) -> bytes:
    """One line of JSON. Fully escaped, as names of files need not be UTF-8."""
    return json.dumps(value).encode("ascii") + b"\n"
