"""What an answer may say: the interface between decoding and grammars.

Decoding knows no grammar: it asks before each token which tokens are allowed, and tells which one was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

WORD_BITS = 32


class TokenConstraint(Protocol):
    """The state of one answer. Calls never overlap, but may come from another thread than the model's."""

    def allow(self) -> Tensor | None:
        """The tokens that are allowed now, as bits of int32 words, the lowest first; None for all of them.

        At least one is allowed: where nothing may follow, a token that ends the answer.
        """
        ...

    def draft(self) -> Sequence[int]:
        """Tokens of the only text that may follow, if there is one; others may be chosen to write it."""
        ...

    def accept(self, token: int) -> None:
        """Take the chosen token, also one that ends the answer."""
        ...

    def copy(self) -> TokenConstraint:
        """A copy of the state, for another beam that continues from here."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether only an end may follow."""
        ...


MakeConstraint = Callable[[], TokenConstraint]
"""Makes the state of an answer at its beginning: an answer is begun anew where memory was short."""


def is_allowed(words: Tensor | None, token: int) -> bool:
    """Whether a token may come."""
    return words is None or bool(int(words[token // WORD_BITS]) >> token % WORD_BITS & 1)


def hide_others(scores: Tensor, words: Sequence[Tensor | None]) -> Tensor:
    """The scores of rows by tokens, minus infinity where a row does not allow a token."""
    told = {row: own for row, own in enumerate(words) if own is not None}
    if not told:
        return scores
    allowed = _unpack(pad_sequence(list(told.values()), batch_first=True), scores.shape[-1], scores.device)
    if len(told) == len(scores):
        return scores.masked_fill(~allowed, -torch.inf)
    places = torch.tensor(list(told), device=scores.device)
    return scores.index_copy(0, places, scores[places].masked_fill(~allowed, -torch.inf))


def _unpack(words: Tensor, size: int, device: torch.device) -> Tensor:
    """One bool for each token, from the words of each row; tokens beyond the last word are not allowed."""
    if device.type == "cpu":
        allowed = torch.from_numpy(np.unpackbits(words.numpy().view(np.uint8), axis=-1, bitorder="little")).bool()
    else:
        bits = torch.arange(WORD_BITS, device=device, dtype=words.dtype)
        allowed = ((words.to(device)[..., None] >> bits) & 1).flatten(1).bool()
    return pad(allowed[:, :size], (0, max(0, size - allowed.shape[1])))
