"""The images that clients name: web addresses and data only, never a file, bounded in number, bytes and pixels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

import anyio.to_thread

from ..errors import SourceError, to_item_error
from ..images import Deadline, decode, name_source, read
from ..images.limits import count_pixels
from ..images.names import parse_scheme
from ..values import Image
from .budget import DECODING_BYTES, Holding, OverBudget, count_kept
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


async def load_images(sources: Iterable[str], state: ServerState, holding: Holding) -> dict[str, Image]:
    """The images of sources, each once. Raises SourceError, OverBudget."""
    every = list(sources)
    check_sources(every, most=state.rules.images)
    distinct = list(dict.fromkeys(every))
    images = await asyncio.gather(*(_load(source, state, holding) for source in distinct))
    return dict(zip(distinct, images, strict=True))


async def _load(source: str, state: ServerState, holding: Holding) -> Image:
    """One image. If its request is given up, the transfer and the decoding end too."""
    deadline = Deadline()
    loading = partial(_load_here, source, state, holding, deadline)
    try:
        return await anyio.to_thread.run_sync(loading, limiter=state.loads, abandon_on_cancel=True)
    except BaseException:
        deadline.give_up()
        raise


def _load_here(source: str, state: ServerState, holding: Holding, deadline: Deadline) -> Image:
    """Memory is reserved first; what decoding used is given back when it ends, whoever waits for it."""
    limits = state.rules.limits
    try:
        data = read(source, limits, deadline)
        pixels = min(count_pixels(data), limits.max_pixels)
        with state.decodes, Holding(state.budget) as own:
            own.grow(pixels * DECODING_BYTES)
            image = decode(data, source, limits, deadline)
            holding.grow(count_kept(image.pixels.width * image.pixels.height))
        return image
    except OverBudget:
        raise
    except BaseException as error:
        raise to_item_error(error) from error
