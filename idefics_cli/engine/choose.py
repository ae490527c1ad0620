"""The next token of each row from its logits: the most likely one, or one drawn with the row's own seed.

Each row chooses as if it were alone. `pick` runs on the device only; `choose` also handles penalties and grammars,
which depend on what a row has written.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from ..values import Decoding
from .constraint import hide_others
from .processors import Likeliest, list_likeliest
from .running_row import RunningRow


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token, its log-probability before constraint and temperature, and whether its logits were finite."""

    token: int
    logprob: float
    is_finite: bool
    likeliest: Likeliest = ()


class Draws:
    """How the sampled rows draw: for each the row of its logits, its settings and its generator.

    The token with the highest quotient of probability and exponential noise is drawn, as `multinomial` does.
    """

    def __init__(self, rows: Sequence[tuple[int, RunningRow]], width: int) -> None:
        decodings = [row.work.decoding for _, row in rows]
        self.generators = [row.generator for _, row in rows if row.generator is not None]
        device = self.generators[0].device
        self.places = torch.tensor([place for place, _ in rows], device=device)
        self.temperatures = _column([one.temperature for one in decodings], device)
        self.top_ks = self.rests = None
        if any(one.top_k > 0 for one in decodings):
            kept = [min(one.top_k or width, width) for one in decodings]
            self.top_ks = width - torch.tensor(kept, device=device)[:, None]
        if any(one.top_p < 1 for one in decodings):
            self.rests = _column([1 - one.top_p for one in decodings], device)
        self.noise = torch.empty((len(rows), width), device=device)

    def renew(self) -> None:
        """Draw new noise for the next token."""
        for own, generator in zip(self.noise, self.generators, strict=True):
            own.exponential_(generator=generator)

    def read_generators(self) -> list[Tensor]:
        """The state of each row's generator."""
        return [generator.get_state() for generator in self.generators]

    def set_generators(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def draw(self, scores: Tensor) -> Tensor:
        """A token for each row that is drawn."""
        scores = scores / self.temperatures
        if self.top_ks is not None or self.rests is not None:
            scores = self._cut(scores)
        return (scores.softmax(dim=-1) / self.noise).argmax(dim=-1)

    def _cut(self, scores: Tensor) -> Tensor:
        """Only the `top_k` likeliest tokens, and of those the fewest that come to `top_p`."""
        ordered, order = scores.sort(dim=-1)
        if self.top_ks is not None:
            least = ordered.gather(-1, self.top_ks)
            scores = scores.masked_fill(scores < least, -torch.inf)
            ordered = ordered.masked_fill(ordered < least, -torch.inf)
        if self.rests is not None:
            is_cut = (ordered.softmax(dim=-1).cumsum(dim=-1) <= self.rests) & (self.rests > 0)
            is_cut[:, -1] = False
            scores = scores.masked_fill(torch.zeros_like(is_cut).scatter(-1, order, is_cut), -torch.inf)
        return scores


def list_draws(rows: Sequence[tuple[int, RunningRow]], width: int) -> Draws | None:
    """The sampled rows with their places; None if there are none."""
    drawn = [(place, row) for place, row in rows if row.generator is not None]
    return Draws(drawn, width) if drawn else None


def pick(scores: Tensor, allowed: Tensor, draws: Draws | None) -> tuple[Tensor, Tensor]:
    """A token for each row: its id, its log-probability, and whether its logits were finite."""
    # The highest of a row is NaN if any is; logits of -inf are tokens that are banned.
    finite = torch.isfinite(scores.amax(dim=-1))
    tokens = allowed.argmax(dim=-1)
    if draws is not None:
        # Drawing from what are no numbers would fail the whole batch, and on a GPU the device.
        safe = torch.where(finite[:, None], allowed, torch.zeros_like(allowed[:1]))
        tokens = tokens.index_copy(0, draws.places, draws.draw(safe.index_select(0, draws.places)))
    logprobs = scores.gather(-1, tokens[:, None])[:, 0] - scores.logsumexp(dim=-1)
    # In float32, as MPS has no other: it holds every id below 2 ** 24.
    return tokens, torch.stack([tokens.float(), logprobs, finite.float()])


def ban(logits: Tensor, banned: Tensor | None) -> Tensor:
    """The logits in full precision, without the tokens that may never be in an answer."""
    scores = logits.to(torch.float32, copy=True)
    return scores if banned is None else scores.index_fill_(-1, banned, -torch.inf)


def choose(logits: Tensor, rows: Sequence[RunningRow], banned: Tensor | None) -> list[ChosenToken]:
    """One token for each row, whose logits are in the same order. Reads from the device once."""
    scores = logits.to(torch.float32, copy=True)
    for place, row in enumerate(rows):
        processors = _list_penalties(row.work.decoding)
        if processors:
            ids = torch.tensor([[*row.work.encoded.ids, *row.ids]], device=scores.device)
            scores[place] = _shape(processors, ids, scores[place : place + 1])[0]
    scores = ban(scores, banned)
    allowed = hide_others(scores, [None if row.constraint is None else row.constraint.allow() for row in rows])
    draws = list_draws(list(enumerate(rows)), scores.shape[-1])
    if draws is not None:
        draws.renew()
    chosen = read_chosen(pick(scores, allowed, draws)[1].tolist())
    return [
        replace(one, likeliest=list_likeliest(own, row.work.likeliest)) if row.work.likeliest else one
        for one, own, row in zip(chosen, scores, rows, strict=True)
    ]


def read_chosen(told: Sequence[Sequence[float]]) -> list[ChosenToken]:
    """The tokens of one step with their log-probabilities, one for each row."""
    return [ChosenToken(int(token), logprob, bool(is_finite)) for token, logprob, is_finite in zip(*told, strict=True)]


def is_guided(row: RunningRow) -> bool:
    """Whether the next token of a row depends on what it has written, or its alternatives are wanted."""
    return row.constraint is not None or row.work.likeliest > 0 or bool(_list_penalties(row.work.decoding))


def _shape(processors: Sequence[Any], ids: Tensor, scores: Tensor) -> Tensor:
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def _list_penalties(decoding: Decoding) -> list[Any]:
    """The penalties, in the order in which `generate` applies them."""
    made: list[Any] = []
    if decoding.repetition_penalty != 1.0:
        made.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.no_repeat_ngram_size > 0:
        made.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
    return made


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]
