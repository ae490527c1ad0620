"""Thoughts in the output of a server: they come before the answer and are not part of it.

Some servers send thoughts in a field of their own. Others send them in the text, without the opening mark if the prompt
ends in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models.families.family import THOUGHTS

_FIELDS = ("reasoning_content", "reasoning")


class ThoughtFilter:
    """Separates the answer from the thoughts in the text so far."""

    def __init__(self, *, is_asked: bool = False) -> None:
        """`is_asked` is for a request that told the model to think."""
        self._is_asked = is_asked
        self._is_parsed = False

    def look(self, message: Mapping[str, Any]) -> None:
        """Note whether a server separates thoughts itself."""
        self._is_parsed = self._is_parsed or any(message.get(name) for name in _FIELDS)

    def strip(self, text: str, finish_reason: str | None) -> str:
        """The part of the text that is surely the answer: a text may still become a thought, or a thought end."""
        if self._is_parsed:
            return text
        begun = text.lstrip()
        for begin, end in THOUGHTS:
            if begun.startswith(begin):
                return begun.partition(end)[2].lstrip() if end in begun else ""
            if finish_reason is None and begin.startswith(begun):
                return ""
        if not self._is_asked:
            return text
        for _, end in THOUGHTS:
            if end in text:
                return text.partition(end)[2].lstrip()
        return text if finish_reason == "stop" else ""
