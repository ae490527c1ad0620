"""Batches run in whatever memory there is: what does not fit is tried without caches, in halves, in shorter rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..models.devices import is_out_of_memory
from .batching import Batch
from .engine import Engine, Outcome, Work
from .label_scoring import ROW_TOKENS, Ranking

FEWEST_ROW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a work, and its part of the time its batch took."""

    outcome: Outcome
    seconds: float


def run_all(engine: Engine, works: Sequence[Work], *, rows: int) -> list[Done | None]:
    """Each work answered, in order, or None where not even it alone fits. `rows` is the most of a batch."""
    done: dict[int, Done] = {}
    for batch in engine.plan(works, rows=rows):
        done.update(_run(engine, works, batch))
    return [done.get(index) for index in range(len(works))]


def free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _run(engine: Engine, works: Sequence[Work], batch: Batch) -> dict[int, Done]:
    chosen = [works[index] for index in batch.rows]
    began = time.perf_counter()
    for cuts, row_tokens in _list_attempts(chosen, batch.cuts):
        outcomes = None
        try:
            outcomes = engine.run(chosen, cuts, row_tokens=row_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, where the traceback no longer holds the tensors that did not fit.
        if outcomes is not None:
            seconds = (time.perf_counter() - began) / len(outcomes)
            return {index: Done(one, seconds) for index, one in zip(batch.rows, outcomes, strict=True)}
        engine.free()
        free_memory()
    middle = len(chosen) // 2
    halves = (batch.rows[:middle], batch.rows[middle:]) if middle else ()
    return {
        index: done for half in halves for index, done in _run(engine, works, Batch(half, batch.cuts)).items()
    }


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
