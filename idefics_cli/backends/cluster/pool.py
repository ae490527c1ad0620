"""The pool of actors on the nodes of a Ray cluster: this process keeps the items, their order and the rows.

An actor stays on its node, and Ray starts its process again there if it dies; the pool, never Ray, gives its requests
to others. New nodes are used; nodes that are leaving get nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ... import __version__
from ...errors import ModelError, ServerLost, UsageError
from ...files import is_own_stream
from ...images import Limits, is_url
from ...values import Image, Request, Style
from ..backend import Opening, Outcome, PreparedRequest, Preview, Reading
from ..daemon.protocol import build_images, pack, read_outcomes
from ..pool.backend import BackendPool, tell_images
from ..pool.schedule import FREE_SHAPES
from .actor import ClusterActor, write_spec

LOOK_SECONDS = 5.0
"""How often to see which nodes there are."""
FIRST_SECONDS = 600.0
"""How long the first worker may take until its model is loaded."""
STARTS_WITHIN_SECONDS = 60.0
_MINE = {"node": "this machine", "versions": {"idefics": __version__}}
_log = logging.getLogger(__name__)


class ClusterPool(BackendPool):
    """Answers requests through an actor for each GPU, or for each group of cores, of a cluster."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening.spec)
        batch_size, self._window = FREE_SHAPES["actor", opening.workers.resource]
        self.batch_size = opening.batch_size or batch_size
        self._workers = opening.workers
        self._limits = opening.limits
        device = "cpu" if opening.workers.resource == "cpu" else opening.spec.device
        offline = os.environ.get("HF_HUB_OFFLINE")
        self._given = {
            "spec": write_spec(asdict(replace(opening.spec, device=device))),
            "batch_size": opening.batch_size,
            "cache_bytes": opening.cache_bytes,
            "folder": os.getcwd() if opening.workers.shares_paths else None,
            "environment": {"HF_HUB_OFFLINE": offline} if offline else {},
        }
        self._starting: dict[Any, _Actor] = {}
        self._first: dict[str, Any] | None = None
        self._known_nodes: set[str] = set()
        self._is_running = False
        self._next_look = 0.0
        _connect(str(opening.workers.cluster))
        try:
            self._look_for_nodes()
            if not self._starting:
                wanted = "GPU" if opening.workers.resource == "gpu" else f"{opening.workers.amount:g} free cores"
                raise ModelError(f"no node of the cluster has a {wanted}", hint="see ray status, or --per-worker cpu=4")
            self._wait_for_first()
        except BaseException:
            self.close()
            raise

    @property
    def style(self) -> Style:  # type: ignore[override]
        assert self._first is not None
        style: Style = self._spec.style or self._first["style"]
        return style

    @property
    def revision(self) -> str | None:  # type: ignore[override]
        assert self._first is not None
        revision: str | None = self._first["revision"]
        return revision

    @property
    def image_edge(self) -> int | None:
        assert self._first is not None
        edge: int | None = self._first["image_edge"]
        return edge

    def limit_reading(self, limits: Limits) -> None:
        """Limits within which the actors read images."""
        self._limits = limits

    def reads(self, source: str) -> Reading:
        """On the nodes, what all machines can reach; any other file is sent."""
        if is_url(source):
            return "there"
        is_shared = self._workers.shares_paths and source != "-" and not is_own_stream(source)
        return "there" if is_shared else "sent"

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        raise UsageError("--dry-run does not work with --cluster", hint="leave --cluster out")

    def close(self) -> None:
        for actor in (*self._starting.values(), *(one.worker for one in self._members.values())):
            actor.close()
        ray.shutdown()
        self._runner.close()

    def _look_around(self) -> None:
        self._is_running = True
        self._read_starts()
        if time.monotonic() < self._next_look:
            return
        nodes = self._look_for_nodes()
        draining = set(ray_state.get_draining_nodes())
        for member in list(self._members.values()):
            node = member.worker.node  # type: ignore[attr-defined]
            if node in draining and not member.seat.is_drained:
                _log.info("%s is shutting down; it gets no more work", member.worker.name)
                self._schedule.drain(member.seat)
            if node in nodes:
                continue
            for batch in list(member.seat.batches.values()):  # what a node had that is gone
                self._ended.append((member, batch, ServerLost(f"{member.worker.name} is gone")))
            if not member.seat.batches:
                self._known_nodes.discard(node)
                self._leave(member)

    def _look_for_nodes(self) -> set[str]:
        """Start an actor for each slot of new nodes; returns the nodes there are."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        draining = set(ray_state.get_draining_nodes())
        for name, node in alive.items():
            if name in self._known_nodes or name in draining:
                continue
            self._known_nodes.add(name)
            resource = "GPU" if self._workers.resource == "gpu" else "CPU"
            for number in range(int(node["Resources"].get(resource, 0) // self._workers.amount)):
                actor = _Actor(self, name, f"worker {number + 1} on {node['NodeManagerHostname']}")
                self._starting[actor.begin()] = actor
        return set(alive)

    def _wait_for_first(self) -> None:
        deadline = time.monotonic() + FIRST_SECONDS
        told = False
        while self._first is None and self._starting:
            ray.wait(list(self._starting), num_returns=1, timeout=1.0)
            self._read_starts()
            if not told and time.monotonic() > deadline - FIRST_SECONDS + STARTS_WITHIN_SECONDS:
                told = True
                _log.info("still waiting for free resources and for the first worker to load its model")
            if time.monotonic() > deadline:
                break
        if self._first is None:
            raise ModelError("no worker of the cluster has started", hint="see ray status for who has its GPUs")

    def _read_starts(self) -> None:
        """Add workers that loaded their model and match the first one. Raises ModelError for one that does not."""
        if not self._starting:
            return
        done, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)
        for reference in done:
            actor = self._starting.pop(reference)
            try:
                said = ray.get(reference)
            except RayError as error:
                actor.close()
                # A node that is going has no room; one that stays is tried again.
                if isinstance(error, ActorUnschedulableError):
                    self._known_nodes.discard(actor.node)
                if self._first is None and not self._starting:
                    raise ModelError(f"{actor.name} did not start ({_first_line(error)})") from error
                continue
            problem = said.get("error") or describe_difference(self._first or said | _MINE, said)
            if problem and self._is_running:
                _log.warning("%s is left out: %s", actor.name, problem)
                actor.close()
            elif problem:
                raise ModelError(str(problem))
            else:
                self._first = self._first or said
                self._join(actor)


class _Actor:
    """An actor, and how to ask it."""

    def __init__(self, pool: ClusterPool, node: str, name: str) -> None:
        self.name = name
        self.node = node
        self._pool = pool
        self._actor: Any = None

    def begin(self) -> Any:
        """Start it on its node; returns the future of what it will tell."""
        workers = self._pool._workers
        amounts = {"num_gpus": workers.amount} if workers.resource == "gpu" else {"num_cpus": workers.amount}
        self._actor = (
            ray.remote(ClusterActor)
            .options(
                **amounts,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
            )
            .remote(self._pool._given)
        )
        return self._actor.start.remote()

    async def ask(self, batch: Sequence[PreparedRequest]) -> list[Outcome]:
        images = {source: image for one in batch for source, image in one.work.items()}
        message = b"".join(pack([one.request for one in batch], images, limits=asdict(self._pool._limits)))
        try:
            reply = json.loads(await self._actor.answer.remote(message))
        except RayActorError as error:
            raise ServerLost(f"{self.name} went away") from error
        except RayError as error:
            raise ModelError(f"{self.name} failed ({_first_line(error)})") from error
        if "error" in reply:
            raise ModelError(reply["error"])
        tell_images(batch, build_images(reply["images"]))
        return read_outcomes(reply["outcomes"])

    async def is_there(self) -> bool:
        with contextlib.suppress(RayError, TimeoutError):
            async with asyncio.timeout(STARTS_WITHIN_SECONDS):
                return "error" not in await self._actor.start.remote()
        return False

    def preview(self, request: Request, images: Mapping[str, Image]) -> Preview:
        return self._pool.preview(request, images)

    def close(self) -> None:
        if self._actor is not None:
            with contextlib.suppress(RayError, ValueError):
                ray.kill(self._actor, no_restart=True)
            self._actor = None


def describe_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How a worker differs from another so that their answers are not of one run; "" if it does not."""
    for name, mine in first["versions"].items():
        if mine != (theirs := other["versions"].get(name)):
            return f"{other['node']} has {name} {theirs}, {first['node']} has {mine}; install the same on both"
    if first["revision"] != other["revision"]:
        return (
            f"{other['node']} has revision {other['revision']}, {first['node']} has {first['revision']}; "
            "name one with --revision"
        )
    if first["device"] == other["device"] and first["answer"] != other["answer"]:
        return (
            f"{other['node']} answers a known question with {other['answer']!r}, {first['node']} with "
            f"{first['answer']!r}; download the checkpoint anew where it is damaged"
        )
    return ""


def _connect(address: str) -> None:
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.CRITICAL,
            ignore_reinit_error=True,
        )
    except (ConnectionError, RayError, RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"no Ray cluster is found at {address} ({_first_line(error)})",
            hint="start one with ray start --head, or give --cluster its HOST:PORT",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
