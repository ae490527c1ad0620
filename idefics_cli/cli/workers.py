"""Which processes share a command's work: those it names, or one for each card if there are several."""

from __future__ import annotations

import re

from ..backends import Workers
from ..config import Model
from ..errors import UsageError
from ..models.hub.catalog import describe
from ..models.memory.available import find_pools
from ..models.memory.fit import fit_in
from ..values import ModelSpec
from .auto_model import make_constraints
from .settings import Settings

MOST_PROCESSES = 64
_SPELLING = "write all, 0,1 for two GPUs by their numbers, or cpu:2 for two processes on the CPU"


def choose_workers(settings: Settings) -> Workers:
    """The workers that were asked for. Raises UsageError."""
    given, model = settings.workers, settings.model
    if given.cluster is None:
        for name, value in (("--per-worker", given.per_worker), ("--shared-paths", given.shared_paths)):
            if value:
                raise UsageError(f"{name} needs --cluster", hint=f"leave {name} out")
    if given.cluster is None and given.devices is None:
        return Workers()
    flag = "--devices" if given.cluster is None else "--cluster"
    others = (("--devices", given.devices),) if flag == "--cluster" else ()
    for name, value in (
        *others,
        ("--server", model.server),
        ("--device", model.device),
        ("--max-memory", model.max_memory),
    ):
        if value:
            raise UsageError(f"{flag} and {name} cannot be combined", hint=f"leave {name} out")
    if given.cluster is not None:
        resource, amount = read_amount(given.per_worker or "gpu=1")
        return Workers(
            cluster=check_address(given.cluster),
            resource=resource,
            amount=amount,
            shares_paths=given.shared_paths,
        )
    assert given.devices is not None
    return Workers(devices=read_devices(given.devices))


def check_address(text: str) -> str:
    """The address of a cluster. Raises UsageError."""
    address = text.strip()
    if address.startswith("ray://"):
        raise UsageError(
            "--cluster takes no ray:// address: a client cannot keep the rows of a run safe",
            hint="run it on a machine of the cluster with --cluster auto, or as ray job submit -- idefics …",
        )
    if address != "auto" and not re.fullmatch(r"[\w.\-]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}", address, re.ASCII):
        raise UsageError(f"--cluster {text} is no address", hint="write auto, or HOST:PORT as ray start prints it")
    return address


def read_amount(text: str) -> tuple[str, float]:
    """What a worker uses of a node, and how much. Raises UsageError."""
    match = re.fullmatch(r"(gpu|cpu)=(\d{1,4}(?:\.\d{1,4})?)", text.strip().lower(), re.ASCII)
    if match is None or float(match[2]) <= 0:
        raise UsageError(f"--per-worker {text} is no amount", hint="write gpu=1, gpu=0.5 or cpu=4")
    return match[1], float(match[2])


def read_devices(text: str) -> tuple[str, ...]:
    """A device for each process. Raises UsageError."""
    wanted = text.strip().lower()
    match = re.fullmatch(r"cpu(?::(\d{1,3}))?", wanted, re.ASCII)
    if match is not None:
        count = int(match[1] or 1)
        if not 1 <= count <= MOST_PROCESSES:
            raise UsageError(f"--devices {text} is not 1 to {MOST_PROCESSES} processes", hint=_SPELLING)
        return ("cpu",) * count
    is_all = wanted == "all"
    if not is_all and not re.fullmatch(r"(?:cuda:)?\d{1,3}(?:,(?:cuda:)?\d{1,3})*", wanted, re.ASCII):
        raise UsageError(f"--devices {text} names no devices", hint=_SPELLING)
    cards = [pool.device for pool in find_pools() if pool.kind == "gpu"]
    if not cards:
        raise UsageError(f"--devices {text}: no GPU is found here", hint="write cpu:2 for two processes on the CPU")
    chosen = cards if is_all else [f"cuda:{one.removeprefix('cuda:')}" for one in wanted.split(",")]
    if missing := [one for one in chosen if one not in cards]:
        raise UsageError(f"--devices {text}: there is no {missing[0]}", hint=f"there are {', '.join(cards)}")
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"--devices {text} names a GPU twice", hint="name each once")
    return tuple(chosen)


def choose_served(text: str, spec: ModelSpec) -> Workers:
    """The worker processes of a server; none if the server itself has the model. Raises UsageError."""
    wanted = text.strip().lower()
    is_number = wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= MOST_PROCESSES
    if wanted != "auto" and not is_number:
        raise UsageError(f"--workers {text} is neither auto nor a number of 1 to {MOST_PROCESSES}")
    if wanted == "1":
        return Workers()
    device = spec.device or "auto"
    for name, value in (("--max-memory", spec.max_memory), (f"--device {device}", ":" in device)):
        if value:
            raise UsageError(f"--workers and {name} cannot be combined", hint=f"leave {name} out")
    pools = [] if device == "cpu" else find_pools()
    cards = [pool.device for pool in pools if pool.kind == "gpu"]
    count = len(cards) if wanted == "auto" else int(wanted)
    if cards and count > len(cards):
        raise UsageError(
            f"--workers {text}: there is one process for each GPU, and there are {len(cards)} GPUs here",
            hint="write auto, or --device cpu",
        )
    return Workers(devices=tuple(cards[:count] or ["cpu"] * count)) if count > 1 else Workers()


def choose_all_cards(spec: ModelSpec, model: Model, settings: Settings) -> Workers:
    """One for each card, if nothing else was asked, there are several and each has room for the model."""
    if spec.max_memory or settings.model.device or spec.device == "cpu":
        return Workers()
    cards = [pool for pool in find_pools() if pool.kind == "gpu"]
    dimensions = describe(model, spec.revision).dimensions if len(cards) > 1 else None
    if dimensions is None:
        return Workers()
    constraints = make_constraints(settings)
    precision = constraints.list_precisions("gpu")[0]
    if not all(fit_in((card,), dimensions, precision, constraints.demand) for card in cards):
        return Workers()
    settings.talk.note(f"one process with {model.name} on each of {len(cards)} GPUs (--devices 0 uses one)")
    return Workers(devices=tuple(card.device for card in cards))
