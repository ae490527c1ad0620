"""Runs batches in the memory there is: what does not fit is tried without caches, in halves, in shorter rows.

A batch that fails for another reason is also halved, until the failing request is found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..errors import AnswerError, ItemError, is_of_item, to_item_error
from ..models.devices import is_out_of_memory
from .engine import Engine, Outcome, Work
from .label_scoring import ROW_TOKENS, Ranking

FEWEST_ROW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a request, and its share of its batch's time."""

    outcome: Outcome
    seconds: float


def free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_of_work(error: BaseException) -> bool:
    """Whether the request may have caused the error; a broken device would fail for the next one too."""
    return is_of_item(error) and not isinstance(error, torch.AcceleratorError)


def describe_no_room() -> AnswerError:
    return AnswerError(
        "this request does not fit into the memory of the device",
        code="out_of_memory",
        hint="use fewer or smaller images, a lower --detail, --4bit or a smaller --model",
    )


def run_batch(engine: Engine, works: Sequence[Work], cuts: tuple[int, ...]) -> Iterator[tuple[Work, Done | ItemError]]:
    """The requests of a batch, each with its answer or its own error."""
    began = time.perf_counter()
    failure: ItemError | None = None
    for attempt, row_tokens in _list_attempts(works, cuts):
        outcomes, fits = None, True
        try:
            outcomes = engine.run(works, attempt, row_tokens=row_tokens)
        except BaseException as error:
            fits = not is_out_of_memory(error)
            if fits:
                if not is_of_work(error):
                    raise
                failure = to_item_error(error) if len(works) == 1 else None
        # Outside of the handler, where the traceback no longer holds the tensors that did not fit.
        if outcomes is not None:
            seconds = (time.perf_counter() - began) / len(outcomes)
            for work, one in zip(works, outcomes, strict=True):
                yield work, Done(one, seconds)
            return
        engine.free()
        free_memory()
        if fits:
            break
    middle = len(works) // 2
    if not middle:
        yield works[0], failure or describe_no_room()
        return
    for half in (works[:middle], works[middle:]):
        yield from run_batch(engine, half, cuts)


def _list_attempts(works: Sequence[Work], cuts: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Ways to run a batch, each with less memory than the one before."""
    yield cuts, ROW_TOKENS
    if len(works) > 1:
        return
    yield (), ROW_TOKENS
    row_tokens = ROW_TOKENS // 2
    while isinstance(works[0], Ranking) and row_tokens >= FEWEST_ROW_TOKENS:
        yield (), row_tokens
        row_tokens //= 2
