"""The kinds of quantization: one class and one row of `QUANTIZATIONS` each. Needs no torch."""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from ...errors import ModelError

QuantizationName = Literal["4bit", "8bit", "int8"]
"""What `--quantize` takes: the keys of the table."""


class Quantization(ABC):
    """The interface of a kind of quantization."""

    library: ClassVar[str]
    install: ClassVar[str] = ""
    """What to run where its library is missing, if that is not a dependency."""
    bytes_per_weight: ClassVar[float]
    is_cached: ClassVar[bool] = True
    """Whether transformers can write its weights to disk, and read them again as they were."""
    is_chosen: ClassVar[bool] = True
    """Whether `--model auto` takes it where more bits do not fit."""
    is_of_cards: ClassVar[bool] = True
    """Whether its library runs on some devices only."""
    scale_is_wide: ClassVar[bool] = False
    """Whether the scale of each row is in the precision of the model, and not in four bytes."""

    @property
    def is_installed(self) -> bool:
        top = self.library.partition(".")[0]
        return find_spec(top) is not None and find_spec(self.library) is not None

    @property
    def hint(self) -> str:
        return self.install or f"pip install {self.library}"

    @abstractmethod
    def build_config(self, skipped: Sequence[str]) -> Any:
        """The quantization config for `from_pretrained`, which leaves the modules `skipped` as they are."""

    @abstractmethod
    def plan_dtype(self) -> Any:
        """The dtype that accelerate counts weights in when it plans where they go."""


class FourBit(Quantization):
    """NF4 with nested scales: https://arxiv.org/abs/2305.14314."""

    library = "bitsandbytes"
    bytes_per_weight = 0.516

    def build_config(self, skipped: Sequence[str]) -> Any:
        import torch
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=list(skipped),
        )

    def plan_dtype(self) -> Any:
        from accelerate.utils import CustomDtype  # type: ignore[import-untyped]

        return CustomDtype.INT4


class EightBit(Quantization):
    """LLM.int8(): https://arxiv.org/abs/2208.07339."""

    library = "bitsandbytes"
    bytes_per_weight = 1.0

    def build_config(self, skipped: Sequence[str]) -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skipped))

    def plan_dtype(self) -> Any:
        import torch

        return torch.int8


class Int8(Quantization):
    """Weights of eight bits by Quanto: https://github.com/huggingface/optimum-quanto."""

    library = "optimum.quanto"
    install = "pip install 'idefics-cli[int8]'"
    bytes_per_weight = 1.0
    is_cached = False
    is_chosen = False
    is_of_cards = False
    scale_is_wide = True

    def build_config(self, skipped: Sequence[str]) -> Any:
        from transformers import QuantoConfig

        return QuantoConfig(weights="int8", modules_to_not_convert=list(skipped))

    def plan_dtype(self) -> Any:
        import torch

        return torch.int8


QUANTIZATIONS: dict[str, Quantization] = {"4bit": FourBit(), "8bit": EightBit(), "int8": Int8()}


def is_cached(name: str | None) -> bool:
    """Whether weights held this way are kept on disk."""
    return name in QUANTIZATIONS and QUANTIZATIONS[name].is_cached


def find_bytes(name: str | None) -> float | None:
    """The bytes of a quantized weight with its share of scales; None for weights that are not quantized."""
    return QUANTIZATIONS[name].bytes_per_weight if name in QUANTIZATIONS else None


def find_quantization(name: str) -> Quantization:
    """The row with a name. Raises ModelError if there is none or its package is not installed."""
    row = QUANTIZATIONS.get(name)
    if row is None:
        raise ModelError(f"unknown quantization {name!r}", hint=f"use one of {', '.join(QUANTIZATIONS)}")
    if not row.is_installed:
        raise ModelError(f"--quantize {name} needs {row.library.replace('.', '-')}", hint=row.hint)
    return row
