"""One answer while it is generated: its tokens so far, what ends it, and its listener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..models.families.family import Family
from ..values import FinishReason
from .detokenizer import AnswerText, TextStream
from .generate import Continuation, Generation
from .processors import Likeliest

MOST_DRAFTED = 32
"""How many tokens of a row are run in one pass."""
MOST_WASTED = 32
"""After so many tokens that were run and not chosen, a row is drafted no further."""


class RunningRow:
    """Takes tokens until `is_ended`."""

    def __init__(self, family: Family, work: Continuation, device: torch.device) -> None:
        self.work = work
        self.is_ended = False
        self.seconds = 0.0
        decoding = work.decoding
        self.ids: list[int] = []
        self.last = 0
        """The token that is run next."""
        self.constraint = None if work.constrain is None else work.constrain()
        self.images: Mapping[str, Tensor] = {}
        """The family's image inputs of its last token."""
        self._wasted = 0
        self.generator: torch.Generator | None = None
        if decoding.temperature > 0:
            self.generator = torch.Generator(device)
            self.generator.manual_seed(decoding.seed)
        self._stop_ids = frozenset(family.stop_ids)
        self._answer = AnswerText(family, work.encoded.ids, decoding.stop)
        self._stream = None
        if work.listener is not None:
            self._stream = TextStream(self._answer, work.listener, family.stop_ids)
        self._logprobs: list[float] = []
        self._likeliest: list[Likeliest] = []
        self._finish_reason: FinishReason = "length"
        self.is_finite = True

    @property
    def streams(self) -> bool:
        """Whether a listener gets each token when it is generated."""
        return self._stream is not None and self._stream.streams

    def count_left(self) -> int:
        """The tokens that it may still have."""
        return self.work.decoding.max_new_tokens - len(self.ids)

    def draft(self) -> Sequence[int]:
        """The tokens that its format most likely has next, because it leaves one text."""
        if self.constraint is None or self.is_ended or self._wasted > MOST_WASTED:
            return ()
        return self.constraint.draft()[: min(MOST_DRAFTED, self.count_left())]

    def waste(self, tokens: int) -> None:
        """Count drafted tokens that were not chosen."""
        self._wasted += tokens

    def take(self, token: int, logprob: float, is_finite: bool, likeliest: Likeliest = ()) -> None:
        """Add a token, whether its logits were finite, and its alternatives."""
        self.last = token
        self._logprobs.append(logprob)
        if self.work.likeliest:
            self._likeliest.append(likeliest)
        self.is_finite = is_finite
        if not is_finite:
            self.is_ended = True
            return
        if self.constraint is not None:
            self.constraint.accept(token)
        if token in self._stop_ids:
            self.is_ended, self._finish_reason = True, "stop"
            return
        self.ids.append(token)
        decoding = self.work.decoding
        is_over = self.constraint is not None and self.constraint.is_over
        if is_over or (decoding.stop and self._answer.is_stopped(self.ids)):
            self.is_ended, self._finish_reason = True, "stop"
        elif len(self.ids) >= decoding.max_new_tokens:
            self.is_ended = True
        if self._stream is not None:
            if self._stream.streams:
                self._stream.take(self.ids)
            self.is_ended = self.is_ended or self._stream.is_cancelled

    def finish(self) -> Generation:
        """The whole answer, once it has ended."""
        text = self._answer.read(self.ids)
        if self._stream is not None:
            self._stream.finish(text)
        return Generation(
            text,
            len(self._logprobs),
            self._finish_reason,
            tuple(self.ids),
            self.is_finite,
            tuple(self._logprobs),
            tuple(self._likeliest),
        )
