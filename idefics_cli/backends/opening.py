"""What a backend is opened with: which model, and who runs it. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..images import Limits
from ..values import ModelSpec


@dataclass(frozen=True, slots=True)
class Workers:
    """Who answers, if not this process. `devices` has one process for each; `cluster` is the address of Ray."""

    devices: tuple[str, ...] = ()
    cluster: str | None = None
    resource: str = "gpu"
    """What of a cluster's nodes a worker takes, and how much of it."""
    amount: float = 1
    shares_paths: bool = False
    """Whether all machines of a cluster see the same files."""


@dataclass(frozen=True, slots=True)
class Opening:
    """All options of a backend. None leaves the choice to the backend."""

    spec: ModelSpec
    name: str = ""
    """What `--model` called it."""
    batch_size: int | None = None
    cache_bytes: int | None = None
    """For what prompts share here, by default a part of the memory that is free."""
    timeout_seconds: float | None = None
    """For an answer of a server."""
    wait_seconds: float | None = None
    """For a server to come back."""
    workers: Workers = Workers()
    limits: Limits = field(default_factory=Limits)
    """Of images that are read by whoever answers."""
