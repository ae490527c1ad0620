"""How much one source may cost: pixels, bytes, seconds, tries, and where it may lead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds on reading a source; every one holds for a single source.

    `max_bytes` bounds what is read from URLs and standard input. Local files are bounded by
    `max_pixels` alone.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 100_000_000
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent areas are put on."""
    connect_timeout_seconds: float = 10.0
    total_timeout_seconds: float = 60.0
    """For everything a URL needs: redirects, retries and the waits between them."""
    allow_private_addresses: bool = True
    """False where strangers choose the URLs: only public addresses are connected to, and without a proxy."""
    attempts: int = 3
    backoff_seconds: float = 0.5
    """Before the second attempt; doubles from there."""
    max_retry_after_seconds: float = 20.0
    """A server that asks for a longer pause is not asked again."""
