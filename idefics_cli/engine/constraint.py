"""What an answer may say: the one seam between decoding and grammars.

Knows no grammar: whoever has one says before each token which may come, and is told which one came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

WORD_BITS = 32


class TokenConstraint(Protocol):
    """The state of one answer. Its calls never overlap, but may come from a thread other than the model's."""

    def allow(self) -> Tensor | None:
        """The tokens that may come now, as bits of int32 words, the lowest first; None for all of them.

        At least one is allowed: where nothing may follow, a token that ends the answer.
        """
        ...

    def accept(self, token: int) -> None:
        """Take the token that was chosen, also the one that ends the answer."""
        ...


MakeConstraint = Callable[[], TokenConstraint]
"""Makes the state of an answer at its beginning: an answer is begun anew where memory was short."""


def hide_others(scores: Tensor, words: Sequence[Tensor | None]) -> Tensor:
    """The scores of rows by tokens, minus infinity wherever a row's words do not allow a token."""
    if all(own is None for own in words):
        return scores
    scores = scores.clone()
    for row, own in enumerate(words):
        if own is not None:
            scores[row, ~_unpack(own.to(scores.device), scores.shape[-1])] = -torch.inf
    return scores


def _unpack(words: Tensor, size: int) -> Tensor:
    """One bool a token; tokens behind the last word are not allowed."""
    bits = (words.view(-1, 1) >> torch.arange(WORD_BITS, device=words.device, dtype=words.dtype)) & 1
    allowed = bits.view(-1)[:size].bool()
    return torch.nn.functional.pad(allowed, (0, size - len(allowed)))
