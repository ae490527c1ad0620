"""Where a model runs, in what precision and with which attention; nothing is chosen that its family cannot bear."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..errors import ModelError
from .families.family import Family

DTYPES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
}
ATTENTIONS = {
    "sdpa": "sdpa",
    "eager": "eager",
    "flash": "flash_attention_2",
    "flash_attention_2": "flash_attention_2",
}
INSIST = "!"


def choose_device(name: str) -> torch.device:
    """The named device, or the best there is: CUDA, XPU, MPS, CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ModelError(
                f"there is no device {name!r} here", hint="use --device auto, cpu, cuda, cuda:1, …"
            ) from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device, family: Family) -> torch.dtype:
    """The named precision; by itself bfloat16 on a GPU, float32 on a CPU. An unsafe one must be insisted on."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = DTYPES.get(name.removesuffix(INSIST))
    if dtype is None:
        raise ModelError(f"unknown dtype {name!r}", hint="use one of auto, bfloat16, float32, float16")
    if str(dtype).removeprefix("torch.") in family.unsafe_dtypes and not name.endswith(INSIST):
        raise ModelError(
            f"{name} overflows in {family.config.model_type} and makes answers garbage",
            hint=f"use --dtype bfloat16, or {name}{INSIST} to insist",
        )
    return dtype


def choose_attention(name: str | None, family: Family) -> str:
    if name is None:
        return "sdpa"
    attention = ATTENTIONS.get(name)
    if attention is None:
        raise ModelError(f"unknown attention {name!r}", hint="use one of sdpa, eager, flash")
    if attention == "flash_attention_2" and not family.flash_attention:
        raise ModelError(f"{family.config.model_type} has no flash attention", hint="leave --attention out")
    return attention


def count_free_bytes(device: torch.device) -> int:
    """Memory that could still be had on a device; half of all of it where nobody can tell."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:  # A container may have less than its machine.
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):
        return free
    return max(0, min(free, limit - used))


def is_out_of_memory(error: BaseException) -> bool:
    """GPUs have an exception of their own for it, the CPU allocator only a sentence."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
