"""One check and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "hint", "broken", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """`text` is one line for people, `hint` the next step, `values` are for programs."""

    name: str
    state: State
    text: str
    hint: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
