"""The pool of several servers with the same model; a faster one gets more requests at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from ...values import Image, ModelSpec, Request
from ..backend import Outcome, PreparedRequest, Preview
from ..pool.backend import WAIT_SECONDS, BackendPool
from .backend import RemoteBackend


class ServerPool(BackendPool):
    """Answers requests through the servers of a spec, one request a call."""

    noun: ClassVar[str] = "server"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, is_paced=True)
        self._servers = [
            _Server(RemoteBackend(replace(spec, servers=(address,)), self._runner), address) for address in spec.servers
        ]
        for server in self._servers:
            self._join(server)

    def limit_seconds(self, timeout_seconds: float | None, wait_seconds: float | None) -> None:
        """The longest time for each answer, and for a server to come back when none is left."""
        for server in self._servers:
            server.backend.limit_seconds(timeout_seconds)
        self._wait_seconds = WAIT_SECONDS if wait_seconds is None else wait_seconds

    def answer(
        self,
        requests: Sequence[Request],
        images: Mapping[str, Image],
        on_text: Callable[[str], None] | None = None,
    ) -> list[Outcome]:
        """Answer each request, in order; a streamed one by the first server that answers."""
        if on_text is None:
            return super().answer(requests, images)
        (request,) = requests
        server = self._find_first()
        assert isinstance(server, _Server)
        return [server.backend.stream(request, images, on_text)]

    def _shape(self, batch_size: int) -> tuple[int, int]:
        return 1, batch_size

    def _hint_lost(self) -> str:
        return "start one again, or wait longer with --server-wait"


class _Server:
    """One server as a worker of the pool."""

    def __init__(self, backend: RemoteBackend, address: str) -> None:
        self.backend = backend
        self.name = address

    async def ask(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        return [await self.backend.ask(one.request, one.work) for one in batch]

    async def is_there(self) -> bool:
        return await self.backend.is_there()

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self.backend.preview(request, images)

    def close(self) -> None:
        self.backend.close()
