"""What an answer may say: the one seam between decoding and grammars.

Knows no grammar: whoever has one says before each token which may come, and is told which one came.
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
    """The state of one answer. Its calls never overlap, but may come from a thread other than the model's."""

    def allow(self) -> Tensor | None:
        """The tokens that may come now, as bits of int32 words, the lowest first; None for all of them.

        At least one is allowed: where nothing may follow, a token that ends the answer.
        """
        ...

    def accept(self, token: int) -> None:
        """Take the token that was chosen, also the one that ends the answer."""
        ...

    def copy(self) -> TokenConstraint:
        """The state as it is now, for another beam that goes on from here."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing but an end may follow, which then need not be asked for."""
        ...


MakeConstraint = Callable[[], TokenConstraint]
"""Makes the state of an answer at its beginning: an answer is begun anew where memory was short."""


def is_allowed(words: Tensor | None, token: int) -> bool:
    """Whether a token may come."""
    return words is None or bool(int(words[token // WORD_BITS]) >> token % WORD_BITS & 1)


def hide_others(scores: Tensor, words: Sequence[Tensor | None]) -> Tensor:
    """The scores of rows by tokens, minus infinity wherever a row's words do not allow a token."""
    told = {row: own for row, own in enumerate(words) if own is not None}
    if not told:
        return scores
    allowed = _unpack(pad_sequence(list(told.values()), batch_first=True), scores.shape[-1], scores.device)
    if len(told) == len(scores):
        return scores.masked_fill(~allowed, -torch.inf)
    places = torch.tensor(list(told), device=scores.device)
    return scores.index_copy(0, places, scores[places].masked_fill(~allowed, -torch.inf))


def _unpack(words: Tensor, size: int, device: torch.device) -> Tensor:
    """One bool a token, of each row of words; tokens behind the last word are not allowed."""
    if device.type == "cpu":
        allowed = torch.from_numpy(
            np.unpackbits(words.numpy().view(np.uint8), axis=-1, bitorder="little")
        ).bool()
    else:
        bits = torch.arange(WORD_BITS, device=device, dtype=words.dtype)
        allowed = ((words.to(device)[..., None] >> bits) & 1).flatten(1).bool()
    return pad(allowed[:, :size], (0, max(0, size - allowed.shape[1])))
