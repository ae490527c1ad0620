"""Which tokens of a filled-in form its schema leaves no choice about: decoding writes those by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher

from ...engine.grammar import Grammars
from ...models.families.family import Family
from ...prompts.answer_format import to_grammar
from ...values import AnswerFormat


class FormTokens:
    """The forms of one vocabulary."""

    def __init__(self, family: Family) -> None:
        self._tokenizer: Any = Grammars(family).open_tokenizer()

    def list_forced(self, answer_format: AnswerFormat, ids: Sequence[int], start: int) -> frozenset[int]:
        """The places of forced tokens, and of those after the end, where the first of the ids is at `start`."""
        matcher = LLMatcher(self._tokenizer, to_grammar(answer_format), log_level=0)
        forced = set[int]()
        place = 0
        while place < len(ids) and not matcher.is_stopped():
            ahead = matcher.compute_ff_tokens()
            assert list(ids[place : place + len(ahead)]) == ahead, "a form is tokenised as decoding does"
            forced |= set(range(start + place, start + place + len(ahead)))
            matcher.consume_tokens(ahead or [ids[place]])
            place += len(ahead) or 1
        return frozenset(forced | set(range(start + place, start + len(ids))))
