"""One memory budget for all requests together: what is being read, decoded and prepared for the model.

Called from threads and from the event loop. Nothing waits: what exceeds the budget is refused.
"""

from __future__ import annotations

import threading

DECODING_BYTES = 8
"""A pixel while it is decoded: as it is stored, and as RGB beside it."""
PIXEL_BYTES = 4
"""A decoded pixel."""
PREPARED_BYTES, PREPARED_PIXELS = 12, 2_000_000
"""A pixel as the model takes it, and about as many as it takes of an image."""
BODY_COPIES = 5
"""A body while it is read as JSON: its bytes, here and in the process that reads it, its text, and the texts in it."""

MESSAGE_COPIES = 4
"""A message of pixels: as it came, as pictures, and as the model takes them."""


class OverBudget(Exception):
    """There is not enough memory now."""


class MemoryBudget:
    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def change(self, count: int, *, is_own: bool = False) -> None:
        """Take more, or give back. Raises OverBudget.

        The user's own commands may send more than the whole budget while nobody else holds anything.
        """
        with self._lock:
            is_over = self._used_bytes + count > self.total_bytes
            if count > 0 and is_over and not (is_own and self._used_bytes == 0):
                raise OverBudget
            self._used_bytes += count


class Holding:
    """What one request holds of the budget, until it is closed. A context manager."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._bytes = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grow(self, count: int, *, is_own: bool = False) -> None:
        """Hold more. Raises OverBudget, also when the request has ended."""
        with self._lock:
            if self._is_closed:
                raise OverBudget
            self._budget.change(count, is_own=is_own)
            self._bytes += count

    def close(self) -> None:
        """Give everything back, once."""
        with self._lock:
            self._is_closed = True
            self._budget.change(-self._bytes)
            self._bytes = 0


def count_kept(pixels: int) -> int:
    """The bytes of an image that waits for the model, and of its tensors."""
    return pixels * PIXEL_BYTES + min(pixels, PREPARED_PIXELS) * PREPARED_BYTES
