"""From the replies of OpenAI-compatible servers to answers, without the thoughts that come before them.

Some servers send thoughts in a field of their own. Others send them in the text, without the opening mark if the prompt
ends in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import AnswerError
from ...models.families.family import THOUGHTS
from ...ranking import measure_confidence
from ...values import Confidence, FinishReason, Usage

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
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


@dataclass(slots=True)
class ServerReply:
    """An answer while it arrives, whole or in pieces."""

    thoughts: ThoughtFilter = field(default_factory=ThoughtFilter)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    logprobs: list[float] = field(default_factory=list)
    _written: str = ""
    _given: int = 0

    @property
    def text(self) -> str:
        """The answer so far, without thoughts."""
        return self.thoughts.strip(self._written, self.finish_reason)

    def add(self, event: Any) -> str:
        """Take a whole answer or an event; returns the new part of the answer. Raises AnswerError."""
        if not isinstance(event, Mapping) or event.get("error"):
            said = event.get("error") if isinstance(event, Mapping) else event
            said = said.get("message") if isinstance(said, Mapping) else said
            raise AnswerError(f"the server failed ({str(said)[:200]})", code="fetch_failed")
        if isinstance(event.get("usage"), Mapping):
            self.usage = read_usage(event)
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, Mapping):
            raise _no_chat()
        message = choice.get("message") or choice.get("delta") or {}
        piece = message.get("content") if isinstance(message, Mapping) else None
        if piece is not None and not isinstance(piece, str):
            raise _no_chat()
        if isinstance(message, Mapping):
            self.thoughts.look(message)
        self._written += piece or ""
        self.logprobs += _read_logprobs(choice.get("logprobs"))
        if (reason := choice.get("finish_reason")) is not None:
            if not isinstance(reason, str) or reason not in _REASONS:
                raise AnswerError(f"the server ended the answer ({str(reason)[:50]})", code="refused")
            self.finish_reason = _REASONS[reason]
        new = self.text[self._given :]
        self._given += len(new)
        return new

    @property
    def confidence(self) -> Confidence | None:
        return measure_confidence(self.logprobs)

    def close(self) -> FinishReason:
        """Why it ended. Raises AnswerError if it was never finished."""
        if self.finish_reason is None:
            raise _no_chat()
        return self.finish_reason


def _read_logprobs(said: Any) -> list[float]:
    """The log-probabilities of the tokens, if the server gives them as numbers."""
    content = said.get("content") if isinstance(said, Mapping) else None
    if not isinstance(content, list):
        return []
    values = [one.get("logprob") if isinstance(one, Mapping) else None for one in content]
    return [float(value) for value in values if isinstance(value, int | float) and -1e6 < value <= 0]


def _no_chat() -> AnswerError:
    return AnswerError("the server answers what is no chat completion", code="fetch_failed")


def read_usage(reply: Any) -> Usage:
    """The token counts of a reply, as far as it has them."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    if not isinstance(usage, Mapping):
        return Usage()
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    counts = (usage.get("prompt_tokens"), cached, usage.get("completion_tokens"))
    return Usage(*(count if isinstance(count, int) and 0 <= count < 2**53 else 0 for count in counts))
