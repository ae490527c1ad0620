"""Logits processors and stopping criteria for a model's own `generate`, mostly for beams.

Rows are ids here; there is no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from .constraint import TokenConstraint, hide_others, is_allowed
from .detokenizer import AnswerText, TextStream

_UNLIKELY = -1e4
"""A logit that is as good as none, and a number in every precision."""

Likeliest = tuple[tuple[int, float], ...]
"""Tokens and their log-probabilities, the likeliest first."""


def list_likeliest(scores: Any, count: int) -> Likeliest:
    """The likeliest tokens of one row of scores."""
    values, ids = (scores - scores.logsumexp(-1)).topk(min(count, len(scores)))
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))


class Finite(LogitsProcessor):
    """Ends each row whose logits are not finite and remembers it, without waiting for the device.

    Sampling from such logits would raise for the whole batch, and on a GPU break the device.
    """

    def __init__(self, rows: int, end_id: int) -> None:
        self._rows = rows
        self._end_id = end_id
        self._broken: Any = None
        self._ending: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self._ending is None:
            self._broken = torch.zeros(self._rows, dtype=torch.bool, device=scores.device)
            self._ending = torch.full_like(scores[0], _UNLIKELY)
            self._ending[self._end_id] = 0
        # The highest of a row is NaN if any is; logits of -inf are tokens that are banned.
        broken = ~torch.isfinite(scores.amax(dim=-1))
        self._broken |= broken.view(self._rows, -1).any(dim=-1)
        return torch.where(broken[:, None], self._ending, scores)

    def read(self) -> list[bool]:
        """Whether each row was computed with numbers."""
        if self._broken is None:
            return [True] * self._rows
        return [not broken for broken in self._broken.tolist()]


class ChosenNotes(LogitsProcessor):
    """Records the log-probability of each chosen token and, if wanted, its most likely alternatives."""

    def __init__(self, likeliest: int) -> None:
        self._wanted = likeliest
        self._scores: Any = None
        self._logprobs: list[Any] = []
        self._likeliest: list[list[Likeliest]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._note(input_ids)
        self._scores = scores
        return scores

    def read(self, sequences: Any) -> list[tuple[tuple[float, ...], tuple[Likeliest, ...]]]:
        """What is told of each row's new tokens, those after its end included."""
        self._note(sequences)
        if not self._logprobs:
            return [((), ())] * len(sequences)
        told = torch.stack(self._logprobs, dim=1).tolist()
        others = zip(*self._likeliest, strict=True) if self._wanted else [()] * len(sequences)
        return [(tuple(own), tuple(some)) for own, some in zip(told, others, strict=True)]

    def _note(self, input_ids: Any) -> None:
        if self._scores is None:
            return
        given = self._scores.gather(-1, input_ids[:, -1:])[:, 0]
        self._logprobs.append(given - self._scores.logsumexp(-1))
        if self._wanted:
            self._likeliest.append([list_likeliest(row, self._wanted) for row in self._scores])
        self._scores = None


class KeptBeams(LogitsProcessor):
    """Constrains each beam of a single row with its own copy of the row's constraint."""

    def __init__(self, width: int, constraint: TokenConstraint) -> None:
        self._width = width
        self._states: dict[tuple[int, ...], TokenConstraint | None] = {(): constraint}
        self._over: set[tuple[int, ...]] = set()

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        states = self.follow(input_ids)
        return hide_others(scores, [None if state is None else state.allow() for state in states])

    def follow(self, input_ids: Any) -> list[TokenConstraint | None]:
        """The state of each beam; None for a beam that broke its constraint and has no chance left."""
        said = [tuple(ids) for ids in input_ids[:, self._width :].tolist()]
        self._states = {ids: self._states[ids] if ids in self._states else self._go_on(ids) for ids in said}
        return [self._states[ids] for ids in said]

    def end(self, input_ids: Any) -> list[bool]:
        """Which beams allow nothing but an end."""
        ended = [state is not None and state.is_over for state in self.follow(input_ids)]
        said = input_ids[:, self._width :].tolist()
        self._over |= {tuple(ids) for ids, is_over in zip(said, ended, strict=True) if is_over}
        return ended

    def find_end(self, ids: Sequence[int]) -> int | None:
        """How many of the ids there were when only an end could follow; None if more could follow."""
        return next((count for count in range(len(ids) + 1) if tuple(ids[:count]) in self._over), None)

    def _go_on(self, ids: tuple[int, ...]) -> TokenConstraint | None:
        before = self._states.get(ids[:-1])
        if before is None or not is_allowed(before.allow(), ids[-1]):
            return None
        state = before.copy()
        state.accept(ids[-1])
        return state


class OverBeams(StoppingCriteria):
    """Ends beams after which only an end may follow."""

    def __init__(self, kept: KeptBeams) -> None:
        self._kept = kept

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        return torch.tensor(self._kept.end(input_ids), device=input_ids.device, dtype=torch.bool)


class StopStrings(StoppingCriteria):
    """Ends each row, or each of its beams, at a stop string of its own text."""

    def __init__(self, answers: Sequence[AnswerText], width: int) -> None:
        self._answers = answers
        self._width = width

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        rows = input_ids[:, self._width :].tolist()
        # A beam search asks about more candidates than it keeps beams.
        each = len(rows) // len(self._answers)
        stopped = [self._answers[index // each].is_stopped(ids) for index, ids in enumerate(rows)]
        return torch.tensor(stopped, device=input_ids.device, dtype=torch.bool)


class HeardRows(StoppingCriteria):
    """Gives rows to their listeners, and ends those whose listener left. Beams send nothing until they end."""

    def __init__(self, streams: Sequence[TextStream | None], width: int, *, can_stream: bool) -> None:
        self._streams = streams
        self._width = width
        self._are_heard = can_stream and any(stream is not None and stream.streams for stream in streams)

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        if self._are_heard:
            for stream, ids in zip(self._streams, input_ids[:, self._width :].tolist(), strict=True):
                if stream is not None and stream.streams:
                    stream.take(ids)
        each = len(input_ids) // len(self._streams)
        are_gone = [stream is not None and stream.is_cancelled for stream in self._streams for _ in range(each)]
        return torch.tensor(are_gone, device=input_ids.device, dtype=torch.bool)
