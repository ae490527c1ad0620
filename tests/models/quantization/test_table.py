"""One row for each quantization, and nothing about one anywhere else."""

from __future__ import annotations

from typing import get_args

import pytest

from idefics_cli.errors import ModelError
from idefics_cli.models.memory.fit import ON_CPU, ON_GPU
from idefics_cli.models.quantization.table import QUANTIZATIONS, QuantizationName, find_quantization


def test_the_option_takes_what_the_table_has() -> None:
    assert get_args(QuantizationName) == tuple(QUANTIZATIONS)


def test_auto_tries_more_bits_first() -> None:
    assert [one.quantization for one in ON_GPU] == [None, "8bit", "4bit"]
    assert [(one.dtype, one.quantization) for one in ON_CPU[:2]] == [("float32", None), ("bfloat16", None)]


def test_an_unknown_one_is_told_with_those_there_are() -> None:
    with pytest.raises(ModelError, match="use one of 4bit, 8bit, int8"):
        find_quantization("2bit")
