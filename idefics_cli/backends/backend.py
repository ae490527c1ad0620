"""What a backend is: whoever answers requests, here or in a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ..errors import ItemError
from ..values import Answer, Image, ModelSpec, Request, Style

DEFAULT_BATCH_SIZE = 8
"""Requests answered at a time, where nobody said how many."""
WINDOW_BATCHES = 2
"""How many batches' worth of requests a backend is handed at a time, so that it can put alike ones together."""


@dataclass(frozen=True, slots=True)
class Preview:
    """An assembled prompt. `text` has one marker per image; token counts are None without a tokenizer at hand."""

    text: str
    image_tokens: tuple[int, ...] | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request made ready for the model, and what that holds in memory. `work` is its backend's own."""

    request: Request
    work: Any
    held_bytes: int = 0
    images: dict[str, Image] = field(default_factory=dict)
    """What there is to tell of its images, filled by whoever has read them elsewhere, once it has answered."""


Reading = Literal["here", "sent", "there"]
"""Where an image is read: in this process, by whoever answers from the file it is sent, or by them altogether."""
TakePrepared = Callable[[int, bool], Sequence[PreparedRequest] | None]
"""At most so many that are ready; with True it may wait for some. None when there will be no more."""


class Backend(Protocol):
    """Who answers requests. Safe to call again and again; not from two threads at once."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def style(self) -> Style: ...

    @property
    def revision(self) -> str | None: ...

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer | ItemError]:
        """Answer each request, in order; a request that cannot be answered gets its error in place.

        `images` maps every source in the prompts to its image. `on_text` receives pieces of the answer as they are
        generated and is only for a single request without choices.
        Raises ModelError when the model itself cannot run.
        """
        ...

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        """The assembled prompt of a request and, if all its images are there, what it costs. Needs no weights."""
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


@runtime_checkable
class StreamingBackend(Backend, Protocol):
    """One whose requests are prepared ahead of it and whose answers come as they end."""

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        """All that can be done before the model has a request. Safe from many threads. Raises ItemError."""
        ...

    def answer_prepared(
        self, take: TakePrepared
    ) -> Iterator[tuple[PreparedRequest, Answer | ItemError] | None]:
        """Answer what is taken, each as it ends; None now and then while there is nothing.

        Raises ModelError when the model itself cannot run.
        """
        ...


@runtime_checkable
class SizedBackend(Backend, Protocol):
    """One that knows to which size images are brought."""

    @property
    def image_edge(self) -> int | None:
        """The longer edge, None where that depends on the image."""
        ...


@runtime_checkable
class PoolingBackend(StreamingBackend, Protocol):
    """One that has others answer, who may read images themselves."""

    @property
    def capacity(self) -> int:
        """How many requests it may have at a time."""
        ...

    def reads(self, source: str) -> Reading:
        """Where the image of a source is to be read."""
        ...
