"""The memory of a process that runs for days: freed memory goes back to the system, and what is held is told.

Without this the allocator keeps what the largest batches needed.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

import psutil


def keep_loaded() -> None:
    """Spare what is loaded by now from every later search for garbage."""
    gc.collect()
    gc.freeze()


def release_freed() -> None:
    """Give back to the system what was freed, and what only garbage refers to. Takes some milliseconds."""
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def count_resident_bytes() -> int:
    """What this process holds now."""
    return psutil.Process().memory_info().rss
