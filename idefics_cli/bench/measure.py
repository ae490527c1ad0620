"""One arm on one workload: seconds, peak memory and the answers.

Each measurement runs in a process of its own if `run_in_child` runs it, so that neither a cache nor the memory of an
earlier one counts.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..backends import Backend, StreamingBackend, close_backends, open_backend
from ..errors import ItemError
from ..values import ModelSpec
from .arms import ArmAnswer, ArmBackend, Spent
from .engine_arms import EngineArm, FixedArm
from .photos import PhotoFiles, SleepingDevice, count_cores
from .workloads import Workload, WorkloadRequests, compose_work

Arm = Literal["guide", "batch", "fixed", "idefics", "vllm", "vllm-eager"]
ARMS: tuple[Arm, ...] = ("guide", "batch", "fixed", "idefics")
RIVALS: tuple[Arm, ...] = ("vllm", "vllm-eager")
"""Arms that run in another environment."""
WARM_LABELS = 20


@dataclass(frozen=True, slots=True)
class ArmJob:
    """What to measure. A probe of the machine takes the same, but uses no workload."""

    spec: ModelSpec
    workload: Workload
    arm: Arm
    images: int
    new_tokens: int
    batch_size: int
    cache_bytes: int | None = None
    rival_python: str = ""


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """The outcome of a job. With a `failure` it has no other values."""

    seconds: float = 0.0
    peak_bytes: int = 0
    replies: tuple[ArmAnswer, ...] = ()
    failure: str | None = None
    cpu_seconds: float = 0.0
    free_cores: float = 0.0
    """How many cores other programs left, on average; all where the system does not tell."""

    def sum(self, tokens: str) -> int:
        """The tokens of all replies that a field of `ArmAnswer` counts."""
        return sum(getattr(reply, tokens) for reply in self.replies)


Open = Callable[[ArmJob], Backend]


def open_local(job: ArmJob) -> Backend:
    return open_backend(job.spec, batch_size=job.batch_size, cache_bytes=job.cache_bytes)


def measure(job: ArmJob, open_with: Open = open_local) -> ArmOutcome:
    """Do the work once to warm up, on other images, then once timed."""
    from ..models.devices import is_out_of_memory

    try:
        with tempfile.TemporaryDirectory(prefix="idefics-photos-") as folder:
            return _measure(job, open_with, folder)
    except ItemError as error:
        return ArmOutcome(failure=str(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return ArmOutcome(failure="out of memory")
    finally:
        close_backends()


def _measure(job: ArmJob, open_with: Open, folder: str) -> ArmOutcome:
    with _open_arm(job, open_with) as answerer:
        return _measure_arm(job, answerer, folder)


def _measure_arm(job: ArmJob, answerer: ArmBackend, folder: str) -> ArmOutcome:
    size = 1 if job.arm == "guide" else job.batch_size
    workload = replace(job.workload, labels=min(job.workload.labels, WARM_LABELS))

    def compose(workload: Workload, images: int, seed: int) -> WorkloadRequests:
        work = compose_work(
            workload, answerer.style, images=images, new_tokens=job.new_tokens, seed=seed, folder=folder
        )
        if not workload.is_read:
            return work
        return replace(work, images=PhotoFiles(work.images, are_large=workload.device_seconds > 0))

    warm = compose(workload, size, 1)
    answerer.answer(warm.requests[:size], warm.images, size)
    work = compose(job.workload, job.images, 0)
    reset_peak()
    began, began_cpu, began_idle = time.perf_counter(), time.process_time(), _count_idle_seconds()
    replies = answerer.answer(work.requests, work.images, size)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    free_cores = min(float(count_cores()), (cpu_seconds + _count_idle_seconds() - began_idle) / seconds)
    spent = answerer.spent or Spent(seconds, cpu_seconds, read_peak())
    return ArmOutcome(
        spent.seconds,
        spent.peak_bytes,
        tuple(replies),
        cpu_seconds=spent.cpu_seconds,
        free_cores=free_cores,
    )


@contextmanager
def _open_arm(job: ArmJob, open_with: Open) -> Iterator[ArmBackend]:
    if job.arm in RIVALS:
        from .rival import Rival

        with closing(Rival(job.spec, job.rival_python, is_eager=job.arm == "vllm-eager")) as rival:
            yield rival
    else:
        yield _open_here(job, open_with)


def _open_here(job: ArmJob, open_with: Open) -> ArmBackend:
    if job.arm == "fixed":
        return FixedArm(open_with(job))
    return EngineArm(_open_backend(job, open_with)) if job.arm == "idefics" else _open_script(job.spec)


def _open_backend(job: ArmJob, open_with: Open) -> Backend:
    backend = open_with(job)
    if job.workload.device_seconds and isinstance(backend, StreamingBackend):
        return SleepingDevice(backend, job.workload.device_seconds)
    return backend


def _open_script(spec: ModelSpec) -> ArmBackend:
    from .baseline import Script

    return Script(spec)


def _count_idle_seconds() -> float:
    """How long all processors together had nothing to do; where the system does not tell, as if always."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return count_cores() * time.perf_counter()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def count_threads() -> int:
    """The threads that compute on a CPU."""
    import torch

    return torch.get_num_threads()


def reset_peak() -> None:
    """Free what can be freed and measure the peak memory from here on."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not every libc can trim
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def read_peak() -> int:
    """The peak memory in bytes: of a CUDA device if there is one, else of the process."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found[1]) if found else 0
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
