"""The one seam between commands and models: a backend answers requests.

`open_backend` is the only way to one. A backend is imported when one of its kind is first opened, so that nothing pays
for torch before a model is needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.libraries import import_libraries
from ..values import ModelSpec
from .backend import (
    DEFAULT_BATCH_SIZE,
    WINDOW_BATCHES,
    Backend,
    PreparedRequest,
    Preview,
    SizedBackend,
    StreamingBackend,
)

if TYPE_CHECKING:
    from .local import LocalBackend
    from .openai.pool import ServerPool

__all__ = [
    "BACKENDS",
    "DEFAULT_BATCH_SIZE",
    "WINDOW_BATCHES",
    "Backend",
    "BackendKind",
    "PreparedRequest",
    "Preview",
    "SizedBackend",
    "StreamingBackend",
    "close_backends",
    "open_backend",
    "pick_backend",
]


@dataclass(frozen=True, slots=True)
class BackendKind:
    """Who can answer, and what it can do. A server of our own in the background has a `local` one."""

    open: Callable[[ModelSpec], Any]
    adjust: Callable[[Any, int | None, float | None, float | None], None]
    """Give an open one its bytes for what prompts share, its seconds for an answer and for a server to come back."""
    streams: bool = True
    ranks: bool = True
    has_beams: bool = True


def _open_local(spec: ModelSpec) -> LocalBackend:
    import_libraries()
    from .local import LocalBackend

    return LocalBackend(spec)


def _adjust_local(
    backend: LocalBackend,
    cache_bytes: int | None,
    timeout_seconds: float | None,
    wait_seconds: float | None,
) -> None:
    if cache_bytes is not None:
        backend.limit_cache(cache_bytes)


def _open_remote(spec: ModelSpec) -> ServerPool:
    from .openai.pool import ServerPool

    return ServerPool(spec)


def _adjust_remote(
    backend: ServerPool, cache_bytes: int | None, timeout_seconds: float | None, wait_seconds: float | None
) -> None:
    backend.limit_seconds(timeout_seconds, wait_seconds)


BACKENDS = {
    "local": BackendKind(_open_local, _adjust_local),
    "openai": BackendKind(_open_remote, _adjust_remote, has_beams=False),
}
_open: dict[ModelSpec, Any] = {}


def pick_backend(servers: Sequence[str] | None) -> BackendKind:
    """The kind that answers: of servers that were named, or of this machine."""
    return BACKENDS["openai" if servers else "local"]


def open_backend(
    spec: ModelSpec,
    *,
    batch_size: int | None = None,
    cache_bytes: int | None = None,
    timeout_seconds: float | None = None,
    wait_seconds: float | None = None,
) -> Backend:
    """The backend of a spec. It stays open and is given again; another spec closes it, as memory holds one model.

    `cache_bytes` is for what prompts share here, by default a part of the memory that is free; `timeout_seconds` for
    an answer of a server, `wait_seconds` for one to come back.
    """
    kind = pick_backend(spec.servers)
    if spec not in _open:
        close_backends()
        _open[spec] = kind.open(spec)
    backend = _open[spec]
    if batch_size is not None:
        backend.batch_size = batch_size
    kind.adjust(backend, cache_bytes, timeout_seconds, wait_seconds)
    opened: Backend = backend
    return opened


def close_backends() -> None:
    """Close whatever is open."""
    while _open:
        _open.popitem()[1].close()
