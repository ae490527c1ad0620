"""Grammars over a checkpoint's tokens: which token may come next in an answer of a format.

llguidance computes the masks (https://github.com/guidance-ai/llguidance), in a thread while the model runs. Its torch
kernels are not used: they would need a C++ compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any

import torch
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from torch import Tensor

from ..errors import BadItem, ModelError
from ..models.families.family import Family
from ..prompts.answer_format import to_grammar
from ..values import AnswerFormat
from .constraint import MakeConstraint


class Grammars:
    """The formats of answers, compiled for one checkpoint's tokenizer."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._tokenizer: Any = None
        self._parse = lru_cache(maxsize=64)(self._parse_grammar)

    def constrain(self, answer_format: AnswerFormat) -> MakeConstraint:
        """The initial state of an answer of a format. Raises BadItem if this tokenizer cannot write it."""
        matcher = self._parse(answer_format)
        return lambda: GrammarConstraint(matcher.deep_copy())

    def list_forced(self, answer_format: AnswerFormat, ids: Sequence[int]) -> list[bool]:
        """For each id of an answer, whether its format allowed no other; ids after its end count too."""
        matcher = self._parse(answer_format).deep_copy()
        forced: list[bool] = []
        while len(forced) < len(ids) and not matcher.is_stopped():
            ahead = matcher.compute_ff_tokens()
            forced += [True] * len(ahead) or [False]
            matcher.consume_tokens(ahead or [ids[len(forced) - 1]])
        return forced + [True] * (len(ids) - len(forced))

    def _parse_grammar(self, answer_format: AnswerFormat) -> Any:
        matcher = LLMatcher(self._open_tokenizer(), to_grammar(answer_format), log_level=0)
        if matcher.is_error():
            raise BadItem(f"the answer's format cannot be enforced ({matcher.get_error().splitlines()[0][:200]})")
        return matcher

    def _open_tokenizer(self) -> Any:
        if self._tokenizer is None:
            try:
                self._tokenizer = from_tokenizer(self._family.tokenizer, eos_token=list(self._family.stop_ids))
            except ValueError as error:
                raise ModelError(
                    f"the tokenizer of {self._family.config.model_type} cannot enforce a format ({error})",
                    hint="ask without --schema, --regex and --choices",
                ) from error
        return self._tokenizer


class GrammarConstraint:
    """The state of one answer in its grammar. The next mask is computed at once, before it is asked for.

    The matcher is not used until that is done, as only one thread may use it at a time. A draft costs a tenth of a
    mask, so it is made before it: asking for one never waits.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._look_ahead()

    def allow(self) -> Tensor | None:
        return torch.frombuffer(bytearray(self._next.result()), dtype=torch.int32)

    def draft(self) -> Sequence[int]:
        return self._draft

    def accept(self, token: int) -> None:
        self._next.result()
        if not self._is_over:
            self._matcher.consume_token(token)
            self._look_ahead()

    def copy(self) -> GrammarConstraint:
        self._next.result()
        return GrammarConstraint(self._matcher.deep_copy())

    def _look_ahead(self) -> None:
        self._is_over = bool(self._matcher.is_stopped())
        self._draft: list[int] = [] if self._is_over else self._matcher.compute_ff_tokens()
        self._next: Future[bytes] = _open_pool().submit(self._matcher.compute_bitmask)

    @property
    def is_over(self) -> bool:
        return self._is_over


@cache
def _open_pool() -> ThreadPoolExecutor:
    """The thread that computes the masks of all answers; it releases the GIL meanwhile."""
    return ThreadPoolExecutor(1, thread_name_prefix="masks")
