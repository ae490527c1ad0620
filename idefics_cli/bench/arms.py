"""What the arms of the benchmark have in common: each answers the same requests in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..values import Image, Request, Style


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """One answer: a text, or the log-probability of each label; and what its prompt cost, labels not counted."""

    text: str = ""
    logprobs: tuple[tuple[str, float], ...] = ()
    asked_tokens: int = 0
    computed_tokens: int = 0
    new_tokens: int = 0
    seconds: float = field(default=0.0, compare=False)
    """When it came, from the start of all; 0 where they come together."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The cost of answers, over all processes that made them."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


class ArmBackend(Protocol):
    """An arm: answers requests in its own way."""

    @property
    def style(self) -> Style: ...

    @property
    def spent(self) -> Spent | None:
        """The cost of the last answers, if another process made them."""

    def answer(self, requests: Sequence[Request], images: Mapping[str, Image], batch_size: int) -> list[ArmAnswer]: ...
