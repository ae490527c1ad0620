"""Fewer bits cost the embedded checkpoint little: a short look at every row of its table, and a long one."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest

from idefics_cli.backends.local import LocalBackend
from idefics_cli.config import resolve_model
from idefics_cli.shapes.training.accuracy import answer_probes, draw_probes, measure_accuracy
from idefics_cli.shapes.training.probes import table
from idefics_cli.values import ModelSpec

WHOLE: dict[str, Any] = {"dtype": "float32"}
PRECISIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "4bit": {"quantization": "4bit"},
    "8bit": {"quantization": "8bit"},
    "int8": {"quantization": "int8"},
}
MOST_LOST = 0.02
SCENES, MANY_SCENES = 2, 100
"""Of each row."""


def open_shapes(options: dict[str, Any]) -> LocalBackend:
    return LocalBackend(ModelSpec(resolve_model("shapes").checkpoint, device="cpu", **options), batch_size=16)


@cache
def count_right(precision: str) -> tuple[int, int]:
    """How many of the probes are answered rightly, all rows together."""
    backend = open_shapes(PRECISIONS.get(precision, WHOLE))
    probes = [probe for row in table() for probe in draw_probes(row, SCENES)]
    verdicts = [probe.is_right(text) for probe, text in zip(probes, answer_probes(backend, probes), strict=True)]
    backend.close()
    return sum(verdicts), len(verdicts)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fewer_bits_are_about_as_right(precision: str) -> None:
    skip_without(precision)
    right, asked = count_right("float32")
    assert asked >= 60
    assert count_right(precision)[0] >= right - 2


@cache
def measure(precision: str) -> dict[tuple[str, str], float]:
    backend = open_shapes(PRECISIONS.get(precision, WHOLE))
    shares = measure_accuracy(backend, MANY_SCENES)
    backend.close()
    return {(share.task, share.column): share.value for share in shares}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_fewer_bits_lose_at_most_two_points(precision: str) -> None:
    """Over the whole suite; a row of its own may lose a little more, being of few scenes."""
    skip_without(precision)
    whole, fewer = measure("float32"), measure(precision)
    lost = {row: whole[row] - fewer[row] for row in whole}
    assert sum(lost.values()) / len(lost) <= MOST_LOST, lost
    assert max(lost.values()) <= 3 * MOST_LOST, lost


def skip_without(precision: str) -> None:
    needed = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "int8": "optimum"}.get(precision)
    if needed is not None and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
