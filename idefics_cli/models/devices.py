"""Where a model runs, in what precision and with which attention, as far as its family supports them."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ..errors import ModelError
from .memory.available import count_free_ram

if TYPE_CHECKING:
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
FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""What /proc/cpuinfo calls a processor's instructions for it: AVX-512, AMX, Arm."""
WIDE = 2048
"""From this hidden size on bfloat16 is the faster one with such instructions: measured on an EPYC with AVX512_BF16,
one row through a layer took 0.9 times as long at 2048 and 0.76 times at 4096, but 1.5 times at 512 and 3 at 192."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device by its usual name, and its memory in bytes."""

    name: str
    kind: str
    free_bytes: int
    total_bytes: int


def choose_device(name: str) -> torch.device:
    """The named device, or the best there is: CUDA, XPU, MPS, CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            kinds = {"cuda": "no CUDA GPU", "xpu": "no Intel GPU", "mps": "no Apple GPU"}
            unknown = f"no device {name!r}"
            what = unknown if is_there(name) else kinds.get(name.partition(":")[0], unknown)
            raise ModelError(f"{what} here", hint="use --device auto or cpu") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def is_there(name: str) -> bool:
    """Whether there is a device of this kind, without starting it."""
    kind = name.partition(":")[0]
    if kind in ("cuda", "xpu"):
        return bool(getattr(torch, kind).is_available())
    return kind != "mps" or torch.backends.mps.is_available()


def choose_dtype(name: str, device: torch.device, family: Family) -> torch.dtype:
    """The named precision, or bfloat16 on a GPU and the faster one on a CPU. An unsafe one needs `!`."""
    if name == "auto":
        if device.type != "cpu":
            return torch.bfloat16
        is_wide = int(family.text_config.hidden_size) >= WIDE
        return torch.bfloat16 if is_wide and has_fast_bfloat16() else torch.float32
    dtype = DTYPES.get(name.removesuffix(INSIST))
    if dtype is None:
        raise ModelError(f"unknown dtype {name!r}", hint="use one of auto, bfloat16, float32, float16")
    if str(dtype).removeprefix("torch.") in family.unsafe_dtypes and not name.endswith(INSIST):
        raise ModelError(
            f"{name} overflows in {family.config.model_type}, so its answers are useless",
            hint=f"use --dtype bfloat16, or {name}{INSIST} to use it anyway",
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
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ModelError(
            "--attention flash needs the package flash-attn",
            hint="pip install 'idefics-cli[flash]', or use sdpa, which needs nothing",
        )
    return attention


@cache
def has_fast_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and not {*FAST_BFLOAT16}.isdisjoint(found[1].split())


def find_input_device(model: Any) -> torch.device:
    """The device of a model's inputs: where its embeddings are, or are moved to for use."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    own: torch.device = model.device
    return own if place is None else torch.device(place)


def list_devices() -> list[Device]:
    """All devices of this machine, the default one first."""
    found: list[Device] = []
    for kind in ("cuda", "xpu"):
        driver = getattr(torch, kind)
        for index in range(driver.device_count() if driver.is_available() else 0):
            total = int(driver.get_device_properties(index).total_memory)
            free = count_free_bytes(torch.device(kind, index))
            found.append(Device(driver.get_device_name(index), f"{kind}:{index}", free, total))
    if torch.backends.mps.is_available():
        free = count_free_bytes(torch.device("mps"))
        found.append(Device("Apple GPU", "mps", free, int(torch.mps.recommended_max_memory())))
    total = psutil.virtual_memory().total
    found.append(Device(_name_processor(), "cpu", count_free_bytes(torch.device("cpu")), total))
    return found


def count_free_bytes(device: torch.device) -> int:
    """The free bytes of a device."""
    if device.type in ("cuda", "xpu"):
        driver = getattr(torch, device.type)
        free = driver.mem_get_info(device)[0]
        return int(free + driver.memory_reserved(device) - driver.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return count_free_ram()[0]


def _name_processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def is_out_of_memory(error: BaseException) -> bool:
    """GPUs have an exception of their own for it; the CPU allocator has only a message."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def translated_device_errors() -> Iterator[None]:
    """Raise ModelError for a device that fails for another reason than memory: the next request would fail too."""
    try:
        yield
    except torch.AcceleratorError as error:
        first_line = str(error).partition("\n")[0]
        raise ModelError(f"the device failed ({first_line})", hint="try another --device or --dtype") from error
