"""The receiver of an answer while it is written: it gets the text, and may cancel the answer.

Knows no model and no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _never() -> bool:
    return False


@dataclass(slots=True, eq=False)
class Listener:
    """Receives one answer. `is_cancelled` is asked at every token; if it returns True, the answer ends there.

    Beams have no text until their search ends, so until then they send nothing and cannot be cancelled.
    """

    on_text: Callable[[str], None] | None = None
    is_cancelled: Callable[[], bool] = _never
    given: int = 0
    """Characters that were handed on. An answer begun anew, where memory was short, goes on after them."""
