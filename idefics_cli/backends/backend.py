"""The interface of backends, whatever answers requests here or on a server, and what one is opened with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ..errors import ItemError
from ..images import Limits
from ..values import Answer, Image, ModelSpec, Request, Style

DEFAULT_BATCH_SIZE = 8
"""Requests answered at a time, where nobody said how many."""
WINDOW_BATCHES = 2
"""How many batches' worth of requests a backend is handed at a time, so that it can put alike ones together."""

Outcome = Answer | ItemError
"""What becomes of a request."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Who answers, if not this process. `devices` has one process for each; `cluster` is the address of Ray."""

    devices: tuple[str, ...] = ()
    cluster: str | None = None
    resource: str = "gpu"
    """What of a cluster's nodes a worker takes, and how much of it."""
    amount: float = 1
    shares_paths: bool = False
    """Whether all machines of a cluster see the same files."""


@dataclass(frozen=True, slots=True)
class Opening:
    """All options of a backend. None leaves the choice to the backend."""

    spec: ModelSpec
    name: str = ""
    """What `--model` called it."""
    batch_size: int | None = None
    cache_bytes: int | None = None
    """For what prompts share here, by default a part of the memory that is free."""
    timeout_seconds: float | None = None
    """For an answer of a server."""
    wait_seconds: float | None = None
    """For a server to come back."""
    workers: Workers = Workers()
    limits: Limits = field(default_factory=Limits)
    """Of images that are read by whoever answers."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server must know about its model before it sends a request."""

    most_letters: int = sys.maxsize
    """A longer text exceeds the context whatever its tokens are."""
    has_system_role: bool = True
    refusals: dict[str, str] = field(default_factory=dict)
    """Why a style cannot be used, by style."""
    image_edge: int | None = None
    """See `SizedBackend`."""


@dataclass(frozen=True, slots=True)
class Preview:
    """An assembled prompt. `text` has one marker per image; token counts are None without a tokenizer at hand."""

    text: str
    image_tokens: tuple[int, ...] | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRequest:
    """A request prepared for the model, and the bytes it holds. `work` belongs to its backend."""

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
    """Answers requests. May be called many times, but not from two threads at once."""

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
    ) -> list[Outcome]:
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
    """A backend whose requests are prepared ahead of it and whose answers come as they end."""

    def prepare(self, request: Request, images: Mapping[str, Image]) -> PreparedRequest:
        """Everything that can be done before the model has a request. Safe from many threads. Raises ItemError."""
        ...

    def answer_prepared(self, take: TakePrepared) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
        """Answer what is taken, each as it ends; yields None from time to time while there is nothing.

        Raises ModelError when the model itself cannot run.
        """
        ...


@runtime_checkable
class SizedBackend(Backend, Protocol):
    """A backend that knows to which size it scales images."""

    @property
    def image_edge(self) -> int | None:
        """The longer edge, None if it depends on the image."""
        ...


@runtime_checkable
class PoolingBackend(StreamingBackend, Protocol):
    """A backend of workers, which may read images themselves."""

    @property
    def capacity(self) -> int:
        """How many requests it may have at a time."""
        ...

    def limit_reading(self, limits: Limits) -> None:
        """Limits within which whoever answers reads images."""
        ...

    def reads(self, source: str) -> Reading:
        """Where the image of a source is read."""
        ...
