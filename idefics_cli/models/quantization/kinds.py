"""What is quantized, what is not, and the check after loading.

Vision tower, resampler or connector, and output head are never quantized: they are small, and quantizing them spoils
answers first. The lists have full module names: transformers matches the beginning or the end of a name, and a given
list replaces its own (https://github.com/huggingface/transformers/issues/45674).
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import ModelError
from ..families.family import Family
from .table import QUANTIZATIONS, find_quantization

_LAYER = re.compile(r"layers\.\d+\.")


@dataclass(frozen=True, slots=True)
class Weights:
    """What a loaded model holds: its quantized modules, their bytes with scales and tables, all other bytes."""

    quantized_modules: int
    quantized_bytes: int
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.quantized_bytes + self.other_bytes


def check_device(quantization: str, device: torch.device, family: Family) -> None:
    """Refuse a device that the library does not support, or a checkpoint that is quantized already."""
    if is_prequantized(family):
        raise ModelError(
            f"this checkpoint is quantized already, so --quantize {quantization} cannot be used",
            hint="leave it out",
        )
    row = QUANTIZATIONS.get(quantization)
    if row is None or not row.is_of_cards or not row.is_installed:
        return
    import bitsandbytes

    able = sorted(bitsandbytes.supported_torch_devices)
    if device.type not in able:
        raise ModelError(
            f"--quantize {quantization} does not work on {device.type}",
            hint=f"use --device {' or '.join(able)}, or leave --quantize out",
        )


def is_prequantized(family: Family) -> bool:
    return getattr(family.config, "quantization_config", None) is not None


def build_config(quantization: str, family: Family) -> Any:
    """The quantization config for `from_pretrained`."""
    return find_quantization(quantization).build_config(family.unquantized)


def check_quantized(model: nn.Module, family: Family) -> None:
    """Refuse a model whose language layers were not quantized or whose vision tower was."""
    quantized = list_quantized(model)
    kept = _match_unquantized(family)
    wrongly = sorted(name for name in quantized if kept.match(f"{name}."))
    if wrongly:
        raise ModelError(
            f"{wrongly[0]} was quantized, which makes answers useless",
            hint="load it without --quantize and report this",
        )
    if not quantized:
        raise ModelError(
            "nothing was quantized in this checkpoint",
            hint="load it without --quantize, or choose another --model",
        )
    language = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_packed(f"{name}.weight", family)
    ]
    missed = [name for name in language if name not in quantized]
    if missed and family.has_prefixes:
        raise ModelError(f"{missed[0]} was not quantized", hint="load it without --quantize and report this")


def leave_narrow_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from packing matrices that it cannot.

    On CPUs with AVX512_BF16 it packs 4-bit matrices before their first use, in blocks of 32 rows and 64 columns, and
    fails on those of another size, which it could use as they are.
    """
    for module in list_quantized(model).values():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            linear: Any = module
            fits = linear.out_features % 32 == 0 and linear.in_features % 64 == 0
            linear.support_avx512bf16_for_cpu = linear.support_avx512bf16_for_cpu and fits


def is_packed(name: str, family: Family) -> bool:
    """Whether a matrix, by its name, is to be quantized: those of the language layers, gated ones included."""
    return _LAYER.search(name) is not None and not _match_unquantized(family).match(name)


def _match_unquantized(family: Family) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?:{name})\." for name in family.unquantized))


def list_quantized(model: nn.Module) -> dict[str, nn.Module]:
    """The quantized modules by name."""
    return {name: module for name, module in model.named_modules() if _is_quantized(module)}


def count_weights(model: nn.Module) -> Weights:
    """The bytes of a model's weights in memory, weights shared by two modules once."""
    packed = list_quantized(model)
    inside = tuple(f"{name}." for name in packed)
    quantized = sum(
        value.nbytes
        for module in packed.values()
        for value in module.state_dict().values()
        if isinstance(value, torch.Tensor)
    )
    others = sum(
        value.nbytes
        for values in (model.named_parameters(), model.named_buffers())
        for name, value in values
        if not name.startswith(inside)
    )
    return Weights(len(packed), quantized, others)


def _is_quantized(module: nn.Module) -> bool:
    """By the name of its class, so that no quantization package is needed."""
    return type(module).__module__.startswith(("bitsandbytes.", "optimum.quanto")) and hasattr(module, "weight")
