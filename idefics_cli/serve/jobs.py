"""Jobs: requests that arrived together, and who waits for them.

Each sender names its own sources, so a job's images are named by their digests before jobs are joined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ..backends import Outcome, PreparedRequest
from ..engine.listener import Listener
from ..values import Image, ImagePart, Message, Request

Outcomes = list[Outcome]


@dataclass(slots=True, eq=False)
class Job:
    """Requests, their images by digest, and the future of their outcomes. `on_text` gets the first one's text, `on_end`
    each outcome with the number of its request.
    """

    requests: tuple[Request, ...]
    images: dict[str, Image]
    on_text: Callable[[str], None] | None = None
    on_end: Callable[[int, Outcome], None] | None = None
    outcomes: Future[Outcomes] = field(default_factory=Future)
    listeners: list[Listener] = field(init=False)
    is_cancelled: bool = False
    stops: list[Callable[[], None]] = field(default_factory=list)
    """Called, in any thread, when nobody waits any more."""
    waiting: int = field(init=False)
    """Requests that have not started."""
    ready: deque[tuple[int, PreparedRequest]] = field(default_factory=deque)
    """Those of them that are prepared, each with its number."""
    ended: dict[int, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = len(self.requests)
        self.listeners = [
            Listener(self.on_text if number == 0 else None, lambda: self.is_cancelled)
            for number in range(len(self.requests))
        ]

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for anything more."""
        return self.is_cancelled or self.outcomes.done()

    def end(self, number: int, outcome: Outcome) -> None:
        """A request has ended; the last one ends the job."""
        if self.on_end is not None and not self.is_over:
            self.on_end(number, outcome)
        self.ended[number] = outcome
        if len(self.ended) == len(self.requests):
            # A future may be cancelled by the one who waits for it.
            with suppress(InvalidStateError):
                self.outcomes.set_result([self.ended[place] for place in range(len(self.requests))])

    def fail(self, error: BaseException) -> None:
        """The job has failed as a whole."""
        with suppress(InvalidStateError):
            self.outcomes.set_exception(error)

    def abandon(self) -> None:
        """Nobody waits any more: it is not started, or ends at its next token."""
        self.is_cancelled = True
        for stop in self.stops.copy():
            stop()


def make_job(
    requests: Sequence[Request],
    images: Mapping[str, Image],
    on_text: Callable[[str], None] | None = None,
    on_end: Callable[[int, Outcome], None] | None = None,
) -> Job:
    return Job(
        tuple(_name_by_digest(request, images) for request in requests),
        {image.digest: image for image in images.values()},
        on_text,
        on_end,
    )


def _name_by_digest(request: Request, images: Mapping[str, Image]) -> Request:
    """The request with digests for sources. Raises KeyError if an image is missing."""
    prompt = tuple(
        Message(
            message.role,
            tuple(
                ImagePart(images[part.source].digest) if isinstance(part, ImagePart) else part for part in message.parts
            ),
        )
        for message in request.prompt
    )
    return replace(request, prompt=prompt, images=tuple(images[source].digest for source in request.images))
