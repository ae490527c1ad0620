"""Workers that answer at once: all that is left is what the command itself does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from idefics_cli.backends import Outcome, PreparedRequest, Preview, Reading
from idefics_cli.backends.pool.backend import BackendPool
from idefics_cli.values import Answer, Image, ModelSpec, Request, Style


class StubWorker:
    """Says the same to everybody."""

    def __init__(self, number: int) -> None:
        self.name = f"stub {number}"
        self.asked = 0
        self.first = 0.0

    async def ask(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        self.first = self.first or time.monotonic()
        self.asked += len(batch)
        return [Answer(" A red circle.") for _ in batch]

    async def is_there(self) -> bool:
        return True

    def answer(
        self, requests: Sequence[Request], images: Mapping[str, Image], on_text: Callable[[str], None] | None
    ) -> list[Outcome]:
        return [Answer(" A red circle.") for _ in requests]

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return Preview("")

    def close(self) -> None:
        pass


class StubPool(BackendPool):
    """Workers that read all images themselves."""

    style: Style = "completion"

    def __init__(self, workers: int, batch_size: int = 16) -> None:
        super().__init__(ModelSpec("stub"))
        self.batch_size = batch_size
        self.stubs = [StubWorker(number) for number in range(workers)]
        for stub in self.stubs:
            self._join(stub)

    def open(self, spec: ModelSpec, batch_size: int) -> StubPool:
        return self

    def reads(self, source: str) -> Reading:
        return "there"
