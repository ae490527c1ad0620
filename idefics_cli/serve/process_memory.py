"""The memory of a process that runs for days: freed memory goes back to the system.

Otherwise the allocator would keep what the largest batches needed.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

import psutil


def keep_loaded() -> None:
    """Exclude everything that is loaded by now from garbage collection."""
    gc.collect()
    gc.freeze()


def release_freed() -> None:
    """Collect garbage and give freed memory back to the system. Takes some milliseconds."""
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def count_resident_bytes() -> int:
    """The resident memory of this process."""
    return psutil.Process().memory_info().rss
