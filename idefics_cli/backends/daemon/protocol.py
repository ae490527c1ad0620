"""Requests, images and answers as bytes, for the socket between a command and a running server.

A message is one line of JSON and then the pixels of its images, one after the other. Values travel by all the fields
they have; which fields those are is no matter here.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import PIL.Image

from ...errors import ItemError
from ...values import Answer, Image, Request

CHANNELS = 3
Value = TypeVar("Value")


def pack(requests: Sequence[Request], images: Mapping[str, Image], **others: Any) -> list[bytes]:
    """The pieces of a message: requests and the images of their sources, each distinct image once."""
    distinct = {image.digest: image for image in images.values()}
    head = {
        "requests": [asdict(request) for request in requests],
        "sources": {source: image.digest for source, image in images.items()},
        "sizes": {digest: image.pixels.size for digest, image in distinct.items()},
        **others,
    }
    return [dump_line(head), *(image.pixels.tobytes() for image in distinct.values())]


def unpack(message: bytes | bytearray) -> tuple[list[Request], dict[str, Image], dict[str, Any]]:
    """Requests, images by source and what else was said. Raises ValueError for what is no such message."""
    end = message.index(b"\n")
    head = json.loads(message[:end])
    rest = memoryview(message)[end + 1 :]
    try:
        requests = [build(Request, one) for one in head.pop("requests")]
        sources, sizes = head.pop("sources"), head.pop("sizes")
        pixels: dict[str, PIL.Image.Image] = {}
        for digest, (width, height) in sizes.items():
            size = width * height * CHANNELS
            pixels[digest] = PIL.Image.frombytes("RGB", (width, height), rest[:size])
            rest = rest[size:]
        images = {source: Image(source, pixels[digest], digest) for source, digest in sources.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message: {error!r}") from error
    if rest:
        raise ValueError("not a message: there are bytes after its pixels")
    return requests, images, head


def dump_outcomes(outcomes: Iterable[Answer | ItemError]) -> list[dict[str, Any]]:
    return [
        {"code": one.code, "message": str(one)} if isinstance(one, ItemError) else asdict(one)
        for one in outcomes
    ]


def build_outcomes(values: Iterable[Mapping[str, Any]]) -> list[Answer | ItemError]:
    return [
        ItemError(one["message"], code=one["code"]) if "code" in one else build(Answer, one) for one in values
    ]


def dump_line(value: Mapping[str, Any]) -> bytes:
    """One line of JSON. Escaped throughout, as names of files need not be UTF-8."""
    return json.dumps(value).encode("ascii") + b"\n"


def build(kind: type[Value], value: Any) -> Value:
    """A value of a type from what JSON made of it. Raises TypeError, ValueError or LookupError if it is none."""
    built: Value = _build(kind, value)
    return built


def _build(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(_build(arguments[0], one) for one in value)
    if origin is tuple:
        return tuple(_build(each, one) for each, one in zip(arguments, value, strict=True))
    if origin in (Union, types.UnionType) and isinstance(value, dict):
        names = value.keys()
        (hint,) = (one for one in arguments if _is_value(one) and _list_fields(one).keys() == names)
    if _is_value(hint):
        hints = _list_fields(hint)
        return hint(**{name: _build(hints[name], one) for name, one in value.items()})
    return value


def _is_value(hint: Any) -> bool:
    return is_dataclass(hint)


@cache
def _list_fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
