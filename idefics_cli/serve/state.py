"""What all routes of a server share: its model, its limits, its clients and when it ends.

Belongs to the event loop; only the scheduler works in another thread. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from .. import __version__
from ..backends.backend import Abilities
from ..backends.pool.answerer import BatchAnswerer
from ..child_processes import ChildProcesses
from ..errors import ModelError, PromptError
from ..images import Limits
from ..values import Request, Style, TextPart
from .budget import MemoryBudget
from .job_queue import Refused
from .metrics import Labels, Metrics
from .pool_scheduler import PoolScheduler
from .process_memory import count_resident_bytes, release_freed
from .scheduler import Scheduler
from .workers import ServedPool

if TYPE_CHECKING:  # a server with workers has no model itself
    from ..backends.local import LocalBackend

LOADED = ("revision", "dtype", "quantization", "device", "attention", "compiles", "detail")
"""What of how the model was loaded a command without --model takes over."""
LOADS_AT_ONCE = 16
"""Images of the API that are fetched and decoded at the same time, whoever wants them."""
PARSES_AT_ONCE = 2
DECODES_AT_ONCE = max(4, os.cpu_count() or 1)
CALLERS_AT_ONCE = 64
REST_SECONDS = 1.0
"""Idle for so long, a server gives back the memory it has freed."""
API_LIMITS = Limits(
    max_pixels=50_000_000, max_bytes=25_000_000, allow_private_addresses=False, total_timeout_seconds=30
)
"""For images that strangers name: no address of the network that the server is in, no picture beyond 50 megapixels."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of a server. `queue` is for requests that wait, `body_bytes` for requests of the API."""

    limits: Limits = API_LIMITS
    rows: int = 32
    queue: int = 256
    body_bytes: int = 64_000_000
    images: int = 32
    timeout_seconds: float = 300.0
    memory_bytes: int = 2_000_000_000
    """For all calls together, while they are under way."""


@dataclass(slots=True, eq=False)
class ServerState:
    """One model and all its clients."""

    name: str
    """What `--model` called it."""
    backend: LocalBackend | ServedPool
    identity: dict[str, Any]
    rules: Rules = field(default_factory=Rules)
    keep_alive_seconds: float = math.inf
    addresses: tuple[str, ...] = ()
    abilities: Abilities = field(default_factory=Abilities)
    metrics: Metrics = field(default_factory=Metrics)
    answerer: BatchAnswerer | None = None
    """What has the model where this is a worker of a command, instead of the scheduler."""
    scheduler: Scheduler | PoolScheduler = field(init=False)
    loads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(LOADS_AT_ONCE))
    parses: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(PARSES_AT_ONCE))
    readers: ChildProcesses = field(
        default_factory=lambda: ChildProcesses(f"{__package__}.json_process", PARSES_AT_ONCE)
    )
    """Of large bodies."""
    budget: MemoryBudget = field(init=False)
    decodes: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(DECODES_AT_ONCE))
    callers: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(CALLERS_AT_ONCE))
    """Threads that wait for rows."""
    tellers: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.monotonic)
    active_calls: int = 0
    """Calls and sessions that are under way."""
    finished_calls: int = 0
    _last_used: float = field(default_factory=time.monotonic)
    _was_used: bool = False
    _is_resting: bool = False

    def __post_init__(self) -> None:
        self.budget = MemoryBudget(self.rules.memory_bytes)
        sizes = {"rows": self.rules.rows, "size": self.rules.queue}
        if isinstance(self.backend, ServedPool):
            self.scheduler = PoolScheduler(self.backend, self.metrics, **sizes)
        else:
            self.scheduler = Scheduler(self.backend, self.metrics, **sizes)

    @contextmanager
    def track_call(self, *, is_session: bool = False) -> Iterator[None]:
        """A client is active: the server does not end for idleness. Raises Refused when it is ending already.

        A session is not counted itself: a command counts as the requests it makes.
        """
        if self.ending.is_set():
            raise Refused(is_ending=True)
        self.active_calls += 1
        try:
            yield
        finally:
            self.active_calls -= 1
            self.finished_calls += not is_session
            self._last_used = time.monotonic()
            self._was_used = True
            self._is_resting = False

    def check_style(self, style: Style) -> None:
        """Raise ModelError for a style that the checkpoint was never made for."""
        if (reason := self.abilities.refusals.get(style)) is not None:
            raise ModelError(reason)

    def check_letters(self, request: Request) -> None:
        """Refuse a text that is too long whatever its tokens are, before it is tokenised."""
        most = self.abilities.most_letters
        texts = [part.text for message in request.prompt for part in message.parts if isinstance(part, TextPart)]
        letters = sum(map(len, texts)) + max((len(choice.continuation) for choice in request.choices), default=0)
        if letters > most:
            raise PromptError(
                f"the text has {letters:,} characters, the model has room for {most:,} at most",
                code="prompt_too_long",
                hint="use a shorter text",
            )

    def next_deadline(self) -> float:
        """When a request that begins now is given up, in the time of the event loop."""
        return asyncio.get_running_loop().time() + self.rules.timeout_seconds

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self.active_calls else time.monotonic() - self._last_used

    @property
    def is_expired(self) -> bool:
        """Whether it has been idle long enough to end; never before its first client where nothing is kept."""
        if self.keep_alive_seconds == 0 and not self._was_used:
            return False
        return not self.active_calls and self.scheduler.is_idle and self.idle_seconds >= self.keep_alive_seconds

    def rest(self) -> None:
        """Give freed memory back to the system, once after all work has been done for a while."""
        if self._was_used and not self._is_resting and self.idle_seconds >= REST_SECONDS:
            self._is_resting = True
            self.readers.end_idle()
            release_freed()

    def describe(self) -> dict[str, Any]:
        """The state of the server, as JSON values."""
        is_ending = self.ending.is_set()
        return {
            "status": "ending" if is_ending else "ready",
            "version": __version__,
            "pid": os.getpid(),
            "model": self.name,
            "revision": self.backend.revision,
            "style": self.backend.style,
            "loaded": {name: getattr(self.backend.spec, name) for name in LOADED},
            "uptime_seconds": round(time.monotonic() - self.began, 1),
            "idle_seconds": round(self.idle_seconds, 1),
            "last_call_seconds": round(time.monotonic() - self._last_used, 1) if self._was_used else None,
            "finished_calls": self.finished_calls,
            "keep_alive_seconds": None if math.isinf(self.keep_alive_seconds) else self.keep_alive_seconds,
            "calls": self.active_calls,
            "waiting_requests": self.scheduler.waiting,
            **({"workers": self.list_workers()} if isinstance(self.backend, ServedPool) else {}),
        }

    def list_workers(self) -> list[dict[str, Any]]:
        """The worker processes; none if this process has the model."""
        return self.backend.describe_workers() if isinstance(self.backend, ServedPool) else []

    def write_metrics(self) -> str:
        uses, workers = self.backend.measure(), self.list_workers()
        gauges: dict[tuple[str, Labels], float] = {
            ("queue_requests", ()): self.scheduler.waiting,
            ("cache_bytes", ()): uses["cache_bytes"],
            ("memory_in_flight_bytes", ()): self.budget.used_bytes,
            ("memory_bytes", (("memory", "device"),)): uses["device_bytes"],
            ("memory_bytes", (("memory", "resident"),)): count_resident_bytes() + uses["resident_bytes"],
        }
        for status in ("ready", "starting"):
            count = sum(one["status"] == status for one in workers)
            gauges["workers", (("status", status),)] = count
        for cache in ("image", "prefix"):
            for outcome in ("hits", "misses"):
                labels = (("cache", cache), ("outcome", outcome))
                gauges["cache_uses_total", labels] = uses[f"{cache}_{outcome}"]
        return self.metrics.write(gauges)
