"""The only seam between commands and models: a backend answers requests.

`open_backend` is the only way to one. A backend is imported when one of its kind is first opened, so that nothing pays
for torch before a model is needed here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..models.libraries import import_libraries
from ..values import ModelSpec
from .backend import (
    DEFAULT_BATCH_SIZE,
    WINDOW_BATCHES,
    Backend,
    Opening,
    Outcome,
    PoolingBackend,
    PreparedRequest,
    Preview,
    Reading,
    SizedBackend,
    StreamingBackend,
    Workers,
)

if TYPE_CHECKING:
    from .cluster.pool import ClusterPool
    from .local import LocalBackend
    from .openai.pool import ServerPool
    from .pool.processes import ProcessPool

__all__ = [
    "BACKENDS",
    "DEFAULT_BATCH_SIZE",
    "WINDOW_BATCHES",
    "Backend",
    "BackendKind",
    "Opening",
    "Outcome",
    "PoolingBackend",
    "PreparedRequest",
    "Preview",
    "Reading",
    "SizedBackend",
    "StreamingBackend",
    "Workers",
    "close_backends",
    "open_as",
    "open_backend",
    "pick_backend",
]


@dataclass(frozen=True, slots=True)
class BackendKind:
    """A way to answer, and what it can do. A server of ours in the background has a `local` backend."""

    open: Callable[[Opening], Any]
    adjust: Callable[[Any, Opening], None]
    """Tell an open one what else a command has set."""
    streams: bool = True
    ranks: bool = True
    has_beams: bool = True


def _open_local(opening: Opening) -> LocalBackend:
    import_libraries()
    from .local import LocalBackend

    return LocalBackend(opening.spec)


def _adjust_local(backend: LocalBackend, opening: Opening) -> None:
    if opening.cache_bytes is not None:
        backend.limit_cache(opening.cache_bytes)


def _open_remote(opening: Opening) -> ServerPool:
    from .openai.pool import ServerPool

    return ServerPool(opening.spec)


def _adjust_remote(backend: ServerPool, opening: Opening) -> None:
    backend.limit_seconds(opening.timeout_seconds, opening.wait_seconds)


def _open_processes(opening: Opening) -> ProcessPool:
    from .pool.processes import ProcessPool

    return ProcessPool(opening)


def _open_cluster(opening: Opening) -> ClusterPool:
    # Read when Ray is imported: what its machinery has to say is nothing to who asks about images.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from .cluster.pool import ClusterPool
    except ImportError as error:
        raise UsageError(
            f"--cluster needs Ray ({error})", hint="pip install 'idefics-cli[cluster]' on every machine"
        ) from error
    return ClusterPool(opening)


def _adjust_pool(backend: Any, opening: Opening) -> None:
    backend.limit_reading(opening.limits)


BACKENDS = {
    "local": BackendKind(_open_local, _adjust_local),
    "openai": BackendKind(_open_remote, _adjust_remote, has_beams=False),
    "devices": BackendKind(_open_processes, _adjust_pool, streams=False),
    "cluster": BackendKind(_open_cluster, _adjust_pool, streams=False),
}
_open: dict[tuple[ModelSpec, Workers], Any] = {}


def pick_backend(*, has_servers: bool, workers: Workers | None = None) -> BackendKind:
    """The kind that answers: named servers, workers, or this process."""
    if has_servers:
        return BACKENDS["openai"]
    if workers is not None and workers.cluster is not None:
        return BACKENDS["cluster"]
    return BACKENDS["devices" if workers is not None and workers.devices else "local"]


def open_backend(spec: ModelSpec, *, batch_size: int | None = None, cache_bytes: int | None = None) -> Backend:
    """The backend of a spec, in this process or at its servers."""
    return open_as(Opening(spec, batch_size=batch_size, cache_bytes=cache_bytes))


def open_as(opening: Opening) -> Backend:
    """The backend that an opening describes. It stays open for the next call; another opening closes it, as memory
    holds one model.
    """
    kind = pick_backend(has_servers=bool(opening.spec.servers), workers=opening.workers)
    key = opening.spec, opening.workers
    if key not in _open:
        close_backends()
        _open[key] = kind.open(opening)
    backend = _open[key]
    if opening.batch_size is not None:
        backend.batch_size = opening.batch_size
    kind.adjust(backend, opening)
    opened: Backend = backend
    return opened


def close_backends() -> None:
    """Close whatever is open."""
    while _open:
        _open.popitem()[1].close()
