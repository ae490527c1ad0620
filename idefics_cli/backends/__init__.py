"""The one seam between commands and models: a backend answers requests.

`open_backend` is the only way to one. A backend is imported when one of its kind is first opened, so that nothing pays
for torch before a model is needed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..models.libraries import import_libraries
from ..values import ModelSpec
from .backend import DEFAULT_BATCH_SIZE, WINDOW_BATCHES, Backend, Preview

if TYPE_CHECKING:
    from .local import LocalBackend
    from .openai.backend import RemoteBackend

__all__ = ["DEFAULT_BATCH_SIZE", "WINDOW_BATCHES", "Backend", "Preview", "close_backends", "open_backend"]

_open: dict[ModelSpec, LocalBackend | RemoteBackend] = {}


def open_backend(
    spec: ModelSpec,
    *,
    batch_size: int | None = None,
    cache_bytes: int | None = None,
    timeout_seconds: float | None = None,
) -> Backend:
    """The backend of a spec. It stays open and is given again; another spec closes it, as memory holds one model.

    `cache_bytes` is for what prompts share here, by default a part of the memory that is free; `timeout_seconds` for
    an answer of a server.
    """
    if spec not in _open:
        close_backends()
        _open[spec] = _make(spec)
    backend = _open[spec]
    if batch_size is not None:
        backend.batch_size = batch_size
    if spec.server is not None:
        cast("RemoteBackend", backend).limit_seconds(timeout_seconds)
    elif cache_bytes is not None:
        cast("LocalBackend", backend).limit_cache(cache_bytes)
    return backend


def _make(spec: ModelSpec) -> LocalBackend | RemoteBackend:
    if spec.server is not None:
        from .openai.backend import RemoteBackend

        return RemoteBackend(spec)
    import_libraries()
    from .local import LocalBackend

    return LocalBackend(spec)


def close_backends() -> None:
    """Close whatever is open."""
    while _open:
        _open.popitem()[1].close()
