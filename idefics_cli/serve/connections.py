"""TCP connections: limited in all and per address, and none waits for ever.

uvicorn's protocol with deadlines: for the head of a request, and for a client that does not read its answer. A
connection whose request is not complete yet makes room for a new one; one that waits for its answer does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a later request, to the end of its head."""
WRITE_SECONDS = 30.0
"""The longest that a client may leave an answer unread."""
MOST_CONNECTIONS, MOST_OF_AN_ADDRESS = 512, 256
SPARE_FILES = 48
READ_BYTES = 1 << 16
"""What is taken from one connection before it is another's turn."""
LOG_LINES_A_MINUTE, LOG_LINES = 10, 2000


class ConnectionLimits:
    """The open connections, limited for each address."""

    def __init__(self, most: int = MOST_CONNECTIONS, most_of_an_address: int = MOST_OF_AN_ADDRESS) -> None:
        self._most = most
        self._most_of_an_address = min(most, most_of_an_address)
        self._counts: Counter[str] = Counter()
        self._waiting: dict[BoundedProtocol, None] = {}
        """Those that may be closed for others, the oldest first."""

    def enter(self, one: BoundedProtocol) -> bool:
        """Accept a connection; the one that has waited longest is closed for it. False if none can be closed."""
        is_full = self._counts.total() >= self._most
        if is_full or self._counts[one.address] >= self._most_of_an_address:
            oldest = next((each for each in self._waiting if is_full or each.address == one.address), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.transport.abort()
        self._counts[one.address] += 1
        self._waiting[one] = None
        one.is_inside = True
        return True

    def leave(self, one: BoundedProtocol) -> None:
        self._waiting.pop(one, None)
        if one.is_inside:
            one.is_inside = False
            self._counts[one.address] -= 1

    def note(self, one: BoundedProtocol, *, is_waiting: bool) -> None:
        """Record whether a connection may be closed for another."""
        if not is_waiting:
            self._waiting.pop(one, None)
        elif one.is_inside and one not in self._waiting:
            self._waiting[one] = None


class BoundedProtocol(H11Protocol):
    """One connection. `limits` is set by `bound`."""

    limits: ConnectionLimits
    address = ""
    is_inside = False
    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self.address = self.client[0] if self.client else ""
        if not self.limits.enter(self):
            transport.abort()
            return
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.leave(self)
        for timer in (self._head, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _look(self) -> None:
        """Set the deadline of the head while no request is being answered."""
        has_request = self.cycle is not None and not self.cycle.response_complete
        self.limits.note(self, is_waiting=not has_request or self.cycle.more_body)
        if has_request and self._head is not None:
            self._head.cancel()
            self._head = None
        elif not has_request and self._head is None and self.timeout_keep_alive_task is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def bound(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """The protocol of a listener, with these limits."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits})


def count_connections() -> int:
    """How many connections the limit of open files allows."""
    try:
        import resource

        free = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/proc/self/fd")) - SPARE_FILES
    except (ImportError, OSError):
        return MOST_CONNECTIONS
    return max(8, min(MOST_CONNECTIONS, free))


class Sparse(logging.Filter):
    """A log that cannot grow without end: limited in lines a minute, and in all."""

    def __init__(self) -> None:
        super().__init__()
        self._minute, self._lines, self._all = 0, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._lines = minute, 0
        self._lines += 1
        if self._lines > LOG_LINES_A_MINUTE or self._all >= LOG_LINES:
            return False
        self._all += 1
        return True


def bound_logs() -> None:
    """Limit the log lines that clients can cause."""
    sparse = Sparse()
    for name in ("uvicorn.error", "asyncio", "idefics.serve"):
        logging.getLogger(name).addFilter(sparse)
