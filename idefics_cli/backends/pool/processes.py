"""The pool of processes on the devices of this machine: each loads the model, and ends with this process.

They are servers of ours that nobody else can find, with the same messages. A file that they can read is not sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from ...child_processes import write_command
from ...errors import IdeficsError, ModelError, ServerLost
from ...files import is_own_stream
from ...images import Limits
from ...values import Image, Request, Style
from ..backend import Abilities, Opening, Outcome, PreparedRequest, Preview, Reading
from ..daemon.backend import ABILITIES, ResidentBackend, ask_server, find_server
from ..daemon.protocol import build_images, read_outcomes, read_value
from .backend import BackendPool, tell_images
from .schedule import FREE_SHAPES

LOOK_SECONDS = 0.05
END_SECONDS = 5.0
BATCHES_AHEAD = 3
"""Batches a process has at a time, as many as wait for a model in this process: one is answered, two are planned."""


class WorkerProcess:
    """A child process that has the model on one device."""

    serves: ClassVar[bool] = False
    """Whether it answers requests of a server's clients instead of a command's batches."""

    def __init__(
        self, opening: Opening, device: str, name: str, threads: int | None, executor: ThreadPoolExecutor
    ) -> None:
        self.name = f"the worker on {name}"
        self.limits = opening.limits
        self._spec = replace(opening.spec, device=device)
        self._given = {
            "name": opening.name,
            "spec": asdict(self._spec),
            "batch_size": opening.batch_size,
            "cache_bytes": opening.cache_bytes,
            "serves": self.serves,
        }
        self._threads = threads
        self._executor = executor
        self._resident: ResidentBackend | None = None
        self._start()

    @property
    def resident(self) -> ResidentBackend:
        assert self._resident is not None, "wait until it is ready"
        return self._resident

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        """Wait until the model is loaded. Raises ModelError if it cannot be."""
        while True:
            found = find_server(self._spec, folder=self._folder)
            if found.backend is not None:
                self._resident = found.backend
                return
            if (code := self._process.poll()) is not None:
                said = self._read_last_line()  # the model's own trouble is its whole line already
                raise ModelError(said if code == ModelError.exit_code else f"{self.name} did not start ({said})")
            time.sleep(LOOK_SECONDS)

    def tell(self, route: str) -> dict[str, Any]:
        """The reply to a GET of a private route; empty if the process is not there."""
        with suppress(IdeficsError):
            return ask_server("GET", route, self._folder) or {}
        return {}

    async def ask(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._ask, batch)

    async def is_there(self) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._restart)

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self.resident.preview(request, images)

    def close(self) -> None:
        if self._resident is not None:
            self._resident.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        images = {source: image for one in batch for source, image in one.work.items()}
        try:
            reply = self.resident.send([one.request for one in batch], images, limits=asdict(self.limits))
        except ServerLost as error:
            raise ServerLost(f"{self.name} ended while it was answering") from error
        tell_images(batch, build_images(reply["images"]))
        return read_outcomes(reply["outcomes"])

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="idefics-"))
        given = {"folder": str(self._folder), **self._given}
        # What several processes share, each has its part of, unless the user has said so.
        threads = {"OMP_NUM_THREADS": str(self._threads)} if self._threads else {}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                write_command("idefics_cli.cli.worker", "main"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**threads, **os.environ},
                start_new_session=True,  # Ctrl-C is for the one it answers
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given).encode() + b"\n")
        self._process.stdin.flush()

    def _restart(self) -> bool:
        """Whether it runs again. Ends and replaces the old process."""
        if self._resident is not None:
            self._resident.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._start()
        try:
            self.wait_until_ready()
        except ModelError:
            return False
        return True

    def _read_last_line(self) -> str:
        log = self._folder / "log"
        lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
        return lines[-1].removeprefix("idefics: ") if lines else f"exit code {self._process.returncode}"


class ProcessPool(BackendPool):
    """Answers requests through one process for each device."""

    process_type: ClassVar[type[WorkerProcess]] = WorkerProcess
    _window = BATCHES_AHEAD

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening.spec)
        devices = opening.workers.devices
        cpus = devices.count("cpu")
        threads = max(1, (os.cpu_count() or 1) // cpus) if cpus else None
        names = [f"{device} {number}" if device == "cpu" else device for number, device in enumerate(devices, 1)]
        if opening.batch_size is None:
            self.batch_size, self._window = FREE_SHAPES["process", "cpu" if cpus else "gpu"]
        self.batch_size = opening.batch_size or self.batch_size
        # Each has its batches on their way, and one may be starting anew.
        self._executor = ThreadPoolExecutor((self._shape(self.batch_size)[1] + 1) * len(devices) + 1, "worker")
        self._processes = [
            self.process_type(opening, device, name, threads, self._executor)
            for device, name in zip(devices, names, strict=True)
        ]
        try:
            for process in self._processes:
                process.wait_until_ready()
                self._join(process)
            told = self._processes[0].tell(ABILITIES)
        except BaseException:
            self.close()
            raise
        self.abilities: Abilities = read_value(Abilities, told)

    @property
    def style(self) -> Style:  # type: ignore[override]
        return self._processes[0].resident.style

    @property
    def revision(self) -> str | None:  # type: ignore[override]
        return self._processes[0].resident.revision

    @property
    def image_edge(self) -> int | None:
        return self.abilities.image_edge

    def limit_reading(self, limits: Limits) -> None:
        """Limits within which the processes read images."""
        for process in self._processes:
            process.limits = limits

    def reads(self, source: str) -> Reading:
        """In the process, except for what only this process has open."""
        return "here" if source == "-" or is_own_stream(source) else "there"

    def close(self) -> None:
        for process in self._processes:
            process.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._runner.close()
