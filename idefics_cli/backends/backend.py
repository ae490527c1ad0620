"""What a backend is: whoever answers requests, here or in a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
