"""Batches run in whatever memory there is: what does not fit is tried without caches, in halves, in shorter rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..models.devices import is_out_of_memory
from .engine import Engine, Outcome, Work
from .label_scoring import ROW_TOKENS, Ranking

FEWEST_ROW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a work, and its part of the time its batch took."""

    outcome: Outcome
    seconds: float


def free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_batch(
    engine: Engine, works: Sequence[Work], cuts: tuple[int, ...]
) -> Iterator[tuple[Work, Done | None]]:
    """The works of a batch, each answered or, where not even it alone fits, None."""
    began = time.perf_counter()
    for attempt, row_tokens in _list_attempts(works, cuts):
        outcomes = None
        try:
            outcomes = engine.run(works, attempt, row_tokens=row_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, where the traceback no longer holds the tensors that did not fit.
        if outcomes is not None:
            seconds = (time.perf_counter() - began) / len(outcomes)
            for work, one in zip(works, outcomes, strict=True):
                yield work, Done(one, seconds)
            return
        engine.free()
        free_memory()
    middle = len(works) // 2
    if not middle:
        yield works[0], None
        return
    for half in (works[:middle], works[middle:]):
        yield from run_batch(engine, half, cuts)


def _list_attempts(works: Sequence[Work], cuts: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Ways to run the works of a batch, each needing less memory than the one before."""
    yield cuts, ROW_TOKENS
    if len(works) > 1:
        return
    yield (), ROW_TOKENS
    row_tokens = ROW_TOKENS // 2
    while isinstance(works[0], Ranking) and row_tokens >= FEWEST_ROW_TOKENS:
        yield (), row_tokens
        row_tokens //= 2
