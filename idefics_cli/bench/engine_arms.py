"""This program as an arm: as it runs, and in fixed batches, whose rows wait for the longest of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..backends import WINDOW_BATCHES, Backend, PreparedRequest, StreamingBackend
from ..errors import ItemError
from ..rows import Result
from ..values import Answer, Image, Request, Style, list_sources
from .arms import ArmAnswer, Spent
from .photos import PhotoFiles, read_and_answer


@dataclass(frozen=True, slots=True)
class EngineArm:
    """This program, through the protocol that every command speaks."""

    backend: Backend
    spent: Spent | None = None

    @property
    def style(self) -> Style:
        return self.backend.style

    def answer(self, requests: Sequence[Request], images: Mapping[str, Image], batch_size: int) -> list[ArmAnswer]:
        if isinstance(images, PhotoFiles):
            return [_reply_row(row) for row in read_and_answer(self.backend, requests)]
        if isinstance(self.backend, StreamingBackend):
            return _stream(self.backend, requests, images)
        return _answer_in_turn(self.backend, requests, images, WINDOW_BATCHES * batch_size)


@dataclass(frozen=True, slots=True)
class FixedArm:
    """The same, but given a batch of requests only after all answers of the one before."""

    backend: Backend
    spent: Spent | None = None

    @property
    def style(self) -> Style:
        return self.backend.style

    def answer(self, requests: Sequence[Request], images: Mapping[str, Image], batch_size: int) -> list[ArmAnswer]:
        return _answer_in_turn(self.backend, requests, images, batch_size)


def _answer_in_turn(
    backend: Backend, requests: Sequence[Request], images: Mapping[str, Image], count: int
) -> list[ArmAnswer]:
    """So many requests at a time."""
    began = time.perf_counter()
    replies: list[ArmAnswer] = []
    for first in range(0, len(requests), count):
        batch = requests[first : first + count]
        own = {source: images[source] for request in batch for source in list_sources(request.prompt)}
        for answer in backend.answer(batch, own):
            if isinstance(answer, ItemError):
                raise answer
            replies.append(_reply(answer, time.perf_counter() - began))
    return replies


def _stream(backend: StreamingBackend, requests: Sequence[Request], images: Mapping[str, Image]) -> list[ArmAnswer]:
    """As in a run, but without threads that prepare: here all work is timed."""
    began = time.perf_counter()
    waiting = deque(requests)
    order: list[PreparedRequest] = []

    def take(count: int, wait: bool) -> list[PreparedRequest] | None:
        if not waiting:
            return None
        taken = [
            backend.prepare(request, {source: images[source] for source in list_sources(request.prompt)})
            for request in (waiting.popleft() for _ in range(min(count, len(waiting))))
        ]
        order.extend(taken)
        return taken

    ended: dict[int, ArmAnswer] = {}
    for pair in backend.answer_prepared(take):
        if pair is not None:
            prepared, answer = pair
            if isinstance(answer, ItemError):
                raise answer
            ended[id(prepared)] = _reply(answer, time.perf_counter() - began)
    return [ended[id(prepared)] for prepared in order]


def _reply(answer: Answer, seconds: float) -> ArmAnswer:
    usage = answer.usage
    return ArmAnswer(
        text="" if answer.scores else answer.text,
        logprobs=tuple((score.label, score.logprob) for score in answer.scores),
        asked_tokens=usage.prompt_tokens,
        computed_tokens=usage.prompt_tokens - usage.shared_tokens,
        new_tokens=usage.new_tokens,
        seconds=seconds,
    )


def _reply_row(row: Result) -> ArmAnswer:
    usage = row.usage
    return ArmAnswer(
        text=row.text or "",
        asked_tokens=usage.prompt_tokens,
        computed_tokens=usage.prompt_tokens - usage.shared_tokens,
        new_tokens=usage.new_tokens,
    )
