"""The one seam between commands and models: a backend answers requests.

`open_backend` is the only way to one. A backend is imported when one of its kind is first opened, so that nothing pays
for torch before a model is needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import ItemError
from ..models.libraries import import_libraries
from ..values import Answer, Image, ModelSpec, Request, Style

if TYPE_CHECKING:
    from .local import LocalBackend
    from .openai.backend import RemoteBackend


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


_open: dict[ModelSpec, LocalBackend | RemoteBackend] = {}


def open_backend(
    spec: ModelSpec,
    *,
    batch_size: int | None = None,
    cache_bytes: int | None = None,
    timeout_seconds: float | None = None,
) -> Backend:
    """The backend of a spec. It stays open and is given again; another spec closes it, as memory holds one model.

    `cache_bytes` is for what prompts share here, by default a part of the memory that is free; `timeout_seconds` for
    an answer of a server.
    """
    if spec not in _open:
        close_backends()
        _open[spec] = _make(spec)
    backend = _open[spec]
    if batch_size is not None:
        backend.batch_size = batch_size
    if spec.server is not None:
        cast("RemoteBackend", backend).limit_seconds(timeout_seconds)
    elif cache_bytes is not None:
        cast("LocalBackend", backend).limit_cache(cache_bytes)
    return backend


def _make(spec: ModelSpec) -> LocalBackend | RemoteBackend:
    if spec.server is not None:
        from .openai.backend import RemoteBackend

        return RemoteBackend(spec)
    import_libraries()
    from .local import LocalBackend

    return LocalBackend(spec)


def close_backends() -> None:
    """Close whatever is open."""
    while _open:
        _open.popitem()[1].close()
