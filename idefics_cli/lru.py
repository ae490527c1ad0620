"""A cache of computed values, bounded in bytes or in number: the least recently used goes first.

Several threads may share one. Knows no torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import RLock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """A value that is too large for the cache is not kept; callers keep a reference to what they use."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = RLock()

    def find(self, key: Key) -> Value | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def touch(self, key: Key) -> int:
        """Mark a value as used; its bytes, 0 if it is not kept."""
        with self._lock:
            return 0 if self.find(key) is None else self._entries[key][1]

    def keep(self, key: Key, value: Value, size_bytes: int = 1) -> None:
        with self._lock:
            self.drop(key)
            if size_bytes > self.limit_bytes:
                return
            self._entries[key] = (value, size_bytes)
            self.used_bytes += size_bytes
            self.shrink(self.limit_bytes)

    def drop(self, key: Key) -> None:
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self.used_bytes -= entry[1]

    def list_keys(self) -> list[Key]:
        with self._lock:
            return list(self._entries)

    def shrink(self, limit_bytes: int) -> None:
        """Change the limit, at once."""
        with self._lock:
            self.limit_bytes = limit_bytes
            while self.used_bytes > limit_bytes:
                self.drop(next(iter(self._entries)))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.used_bytes = 0
