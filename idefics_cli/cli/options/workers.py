"""Who answers, where it is not this process alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..declare import Panel, flag, option

PANEL = "Workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions(Panel):
    """Which processes share the work: on the cards of this machine, or on those of a cluster."""

    ORDER: ClassVar[int] = 1

    devices: Annotated[
        str | None,
        option(
            "--devices",
            panel=PANEL,
            metavar="all|0,1|cpu:N",
            help="A process on each of these GPUs, or N on the CPU; all GPUs if there are several that it fits on.",
        ),
    ] = None
    cluster: Annotated[
        str | None,
        option(
            "--cluster",
            panel=PANEL,
            metavar="auto|HOST:PORT",
            help="Share the work with a Ray cluster: the one this runs in, or the one of this address.",
        ),
    ] = None
    per_worker: Annotated[
        str | None,
        option(
            "--per-worker",
            panel=PANEL,
            metavar="gpu=N|cpu=N",
            help="What a worker of the cluster takes; gpu=1 if not given.",
        ),
    ] = None
    shared_paths: Annotated[
        bool, flag("--shared-paths", panel=PANEL, help="All machines of the cluster see the same files.")
    ] = False
