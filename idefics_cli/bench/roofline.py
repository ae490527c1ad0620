"""How fast this machine multiplies and copies, and what share of that prefill and decoding reach.

Prefill, vision included, is limited by arithmetic: its operations are counted and compared with the matrix rate.
Decoding one request is limited by reading every weight once a token: those bytes are compared with the copy rate.
"""

# torch and transformers are typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ..backends import Backend, close_backends
from ..errors import ItemError
from ..models.devices import choose_device, choose_dtype
from ..models.families.family import Family
from ..models.loading import open_family
from ..models.quantization.kinds import is_packed
from ..models.quantization.table import find_bytes
from ..values import Answer
from .measure import ArmJob, Open, open_local
from .workloads import Workload, WorkloadRequests, compose_work

PROBE = Workload("probe", "one question an image", 1, questions=1)
ROUNDS = 3
DECODED_TOKENS = 32
SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class RooflinePhase:
    """What a phase reaches, in operations or bytes a second, and its share of the machine's rate."""

    rate: float
    fraction: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Machine:
    device: str
    dtype: str
    threads: int
    torch: str
    transformers: str
    matrix_flops: float
    copy_bytes: float
    load: float | None = None
    """What else ran in the minute before, in processes; None if the system does not tell."""
    prefill: RooflinePhase | None = None
    decoding: RooflinePhase | None = None


def probe(job: ArmJob, open_with: Open = open_local) -> Machine:
    """Measure the machine in the precision of the checkpoint, then the two phases through the backend."""
    family = open_family(job.spec)
    device = choose_device(job.spec.device)
    dtype = choose_dtype(job.spec.dtype, device, family)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = Machine(
        device=name_device(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        matrix_flops=measure_matrix_rate(device, dtype),
        copy_bytes=measure_copy_rate(device),
        load=load,
    )
    weights = count_decoding_bytes(family, dtype, job.spec.quantization)
    try:
        return _probe_phases(machine, job, open_with(job), weights)
    except ItemError:
        return machine
    finally:
        close_backends()


def name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measure_matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square product."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: left @ right, device)


def measure_copy_rate(device: torch.device) -> float:
    """Bytes a second of a large copy, counting both reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def count_decoding_bytes(family: Family, dtype: torch.dtype, quantization: str | None) -> float:
    """The bytes of the weights that one new token needs: all but the vision side and the table of embeddings."""
    loader: Any = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        model = loader.from_config(family.config, dtype=dtype)
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    vision = re.compile("|".join(name for name in family.unquantized if name != "lm_head"))
    total = 0.0
    for name, weight in model.named_parameters(remove_duplicate=True):
        if vision.match(name) or (weight is table and table is not head):
            continue
        can_pack = weight.dim() == 2 and is_packed(name, family)
        packed = find_bytes(quantization) if can_pack else None
        total += weight.numel() * (weight.element_size() if packed is None else packed)
    return total


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of several runs, in seconds."""
    best = float("inf")
    work()
    ends = time.perf_counter() + SECONDS
    while time.perf_counter() < ends or best == float("inf"):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _probe_phases(machine: Machine, job: ArmJob, backend: Backend, weights: float) -> Machine:
    """Every timing has images of its own, so that no cache helps."""
    seeds = itertools.count(2)

    def compose(images: int, new_tokens: int) -> WorkloadRequests:
        return compose_work(PROBE, backend.style, images=images, new_tokens=new_tokens, seed=next(seeds))

    _time(backend, compose(job.batch_size, 1))
    with _Operations() as operations:
        _time(backend, compose(job.batch_size, 1))
    seconds, answers = min(
        (_time(backend, compose(job.batch_size, 1)) for _ in range(ROUNDS)), key=lambda timed: timed[0]
    )
    rate = operations.total / seconds
    tokens = sum(answer.usage.prompt_tokens for answer in answers)
    machine = replace(machine, prefill=RooflinePhase(rate, rate / machine.matrix_flops, tokens / seconds))
    steps = []
    for _ in range(ROUNDS):
        short, (one,) = _time(backend, compose(1, 1))
        long, (many,) = _time(backend, compose(1, 1 + DECODED_TOKENS))
        if long > short and many.usage.new_tokens > one.usage.new_tokens:
            steps.append((long - short) / (many.usage.new_tokens - one.usage.new_tokens))
    if not steps:
        return machine
    rate = weights / min(steps)
    return replace(machine, decoding=RooflinePhase(rate, rate / machine.copy_bytes, 1 / min(steps)))


def _time(backend: Backend, work: WorkloadRequests) -> tuple[float, list[Answer]]:
    began = time.perf_counter()
    answers = backend.answer(work.requests, work.images)
    seconds = time.perf_counter() - began
    for answer in answers:
        if isinstance(answer, ItemError):
            raise answer
    return seconds, [answer for answer in answers if isinstance(answer, Answer)]


class _Operations(TorchDispatchMode):
    """Counts the operations of whatever runs under it. Torch's own counter fails in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        packet = func._overloadpacket
        if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            self.total += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif packet not in flop_registry:
            with self:
                result = func.decompose(*args, **options)
            if result is not NotImplemented:
                return result
        result = func(*args, **options)
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **options, out_val=result)
        return result
