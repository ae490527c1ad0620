"""Requests on their way to a server in several messages at a time: answers come as they end, others take their place.

Knows neither how a message is sent nor what a request is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ...values import Image, Request
from ..backend import Outcome, PreparedRequest, TakePrepared

MESSAGE_SHARE = 4
"""One part in so many of the requests make a message, while the server has enough to do."""
_GLANCE_SECONDS = 0.01
"""How often requests that are being prepared are looked for while others are answered."""
TellEnd = Callable[[int, Outcome], None]
"""Called with each outcome, after the number of its request in its message."""


class Endable(Protocol):
    """What a message is sent through."""

    def end(self) -> None:
        """End it for whoever reads from it."""


class Sending:
    """A message being sent; another thread may stop waiting for its reply."""

    def __init__(self) -> None:
        self.is_stopped = False
        self._connection: Endable | None = None

    def begin(self, connection: Endable) -> None:
        """Raises OSError if it was stopped before."""
        self._connection = connection
        if self.is_stopped:
            raise ConnectionAbortedError

    def stop(self) -> None:
        self.is_stopped = True
        if (connection := self._connection) is not None:
            connection.end()


class Send(Protocol):
    """Sends a message and returns once all of it is answered."""

    def __call__(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: None = None,
        sending: Sending | None = None,
        on_end: TellEnd | None = None,
    ) -> Any: ...


def send_ahead(send: Send, take: TakePrepared, most: int) -> Iterator[tuple[PreparedRequest, Outcome] | None]:
    """Answer what is taken, at most so many at a time, each as it ends. Raises what `send` raises."""
    news: SimpleQueue[tuple[PreparedRequest, Outcome] | BaseException] = SimpleQueue()
    sendings: set[Sending] = set()

    def run(taken: Sequence[PreparedRequest], sending: Sending) -> None:
        images = {source: image for one in taken for source, image in one.work.items()}
        try:
            requests = [one.request for one in taken]
            send(requests, images, None, sending, lambda number, outcome: news.put((taken[number], outcome)))
        except BaseException as error:
            news.put(error)
        sendings.discard(sending)

    def begin(taken: Sequence[PreparedRequest]) -> None:
        sendings.add(sending := Sending())
        threading.Thread(target=run, args=(taken, sending), name="sender", daemon=True).start()

    sent, ready, has_more = 0, list[PreparedRequest](), True
    try:
        while has_more or sent:
            if is_looking := has_more and sent + len(ready) < most:
                taken = take(most - sent - len(ready), not (sent or ready))
                has_more = taken is not None
                ready += taken or ()
            is_low = 2 * sent < most and not any(map(_has_examples, ready))
            if ready and (is_low or not (sent and has_more) or len(ready) * MESSAGE_SHARE >= most):
                begin(ready)
                sent, ready = sent + len(ready), []
            if not sent:
                yield None
                continue
            try:
                said = news.get(timeout=_GLANCE_SECONDS if is_looking else None)
            except Empty:
                continue
            if isinstance(said, BaseException):
                raise said
            sent -= 1
            yield said
    finally:
        for sending in sendings.copy():
            sending.stop()


def _has_examples(one: PreparedRequest) -> bool:
    """Whether a message of its own would bring images along that others bring too."""
    return len(one.work) > len(one.request.images)
