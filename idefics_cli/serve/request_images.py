"""The images that strangers name: web addresses and data only, never a file, bounded in number, bytes and pixels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import anyio.to_thread

from ..errors import SourceError, to_item_error
from ..images import Deadline, Limits, load, name_source
from ..images.names import parse_scheme
from ..values import Image
from .state import ServerState


def check_sources(sources: Iterable[str], *, most: int) -> None:
    """Raise SourceError unless all sources are http(s) or data URLs, and not too many."""
    every = list(sources)
    if len(every) > most:
        raise SourceError(f"{len(every)} images are more than the {most} of one request", code="refused")
    for source in every:
        if parse_scheme(source) not in {"http", "https", "data"}:
            raise SourceError(
                f"{name_source(source)[:200]} is neither an http nor a data URL",
                code="refused",
                hint="the API reads no files; send the image as data:image/png;base64,…",
            )


async def load_images(sources: Iterable[str], state: ServerState) -> dict[str, Image]:
    """The images of sources, each once. Raises SourceError."""
    every = list(sources)
    check_sources(every, most=state.rules.images)
    distinct = list(dict.fromkeys(every))
    images = await asyncio.gather(*(_load(source, state) for source in distinct))
    return dict(zip(distinct, images, strict=True))


async def _load(source: str, state: ServerState) -> Image:
    """One image. A call that is given up takes the transfer and the decoding of its images with it."""
    deadline = Deadline()
    try:
        return await anyio.to_thread.run_sync(
            _load_here, source, state.rules.limits, deadline, limiter=state.loads, abandon_on_cancel=True
        )
    except BaseException:
        deadline.give_up()
        raise


def _load_here(source: str, limits: Limits, deadline: Deadline) -> Image:
    try:
        return load(source, limits, deadline)
    except BaseException as error:
        raise to_item_error(error) from error
