"""Weights in fewer bits: what is quantized, what stays as it is, and the proof after loading.

Vision tower, resampler or connector, and output head are never quantized: they are small, and answers break first
there (families.md P27). The lists carry full module names: transformers matches from the start or the end of a name.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from .families.family import Family

QUANTIZATIONS = ("4bit", "8bit", "int8")


def build_config(quantization: str, family: Family) -> Any:
    """The quantization config for `from_pretrained`."""
    from transformers import BitsAndBytesConfig, QuantoConfig

    skipped = list(family.unquantized)
    if quantization == "int8":
        if find_spec("optimum") is None or find_spec("optimum.quanto") is None:
            raise ModelError(
                "--quantize int8 needs optimum-quanto", hint="pip install 'idefics-cli[int8]' or use 8bit"
            )
        return QuantoConfig(weights="int8", modules_to_not_convert=skipped)
    if quantization not in QUANTIZATIONS:
        raise ModelError(
            f"unknown quantization {quantization!r}", hint=f"use one of {', '.join(QUANTIZATIONS)}"
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"--quantize {quantization} needs bitsandbytes", hint="pip install bitsandbytes")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )


def check_quantized(model: nn.Module, family: Family) -> None:
    """Refuse a model whose language layers were left alone or whose vision tower was not."""
    quantized = {name for name, module in model.named_modules() if _is_quantized(module)}
    kept = tuple(f"{name}." for name in family.unquantized)
    wrongly = sorted(name for name in quantized if f"{name}.".startswith(kept))
    if wrongly:
        raise ModelError(
            f"{wrongly[0]} was quantized, which makes answers worthless",
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
        if isinstance(module, nn.Linear) and ".layers." in name and not f"{name}.".startswith(kept)
    ]
    missed = [name for name in language if name not in quantized]
    if missed and family.batch_limit is None:
        raise ModelError(f"{missed[0]} was not quantized", hint="load it without --quantize and report this")


def _is_quantized(module: nn.Module) -> bool:
    """Known by its class, so that none of the quantization packages need be there."""
    return type(module).__module__.startswith(("bitsandbytes.", "optimum.quanto")) and hasattr(
        module, "weight"
    )
