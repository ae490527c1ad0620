"""Pixels are those of the checkpoint's own image processor, bit for bit, however they got there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.models.families.placeholder_family import PlaceholderFamily
from idefics_cli.models.families.tiled import TiledFamily
from tests.engine.oracle import opened
from tests.models.tiny import KINDS, picture

PROCESSORS: dict[str, tuple[str, Any]] = {
    "idefics-9b": ("idefics", lambda: transformers.IdeficsImageProcessorPil()),
    "idefics2": (
        "idefics2",
        lambda: transformers.Idefics2ImageProcessorPil(
            size={"shortest_edge": 378, "longest_edge": 980}, do_image_splitting=True
        ),
    ),
    "idefics3": ("idefics3", lambda: transformers.Idefics3ImageProcessorPil()),
    "smolvlm": (
        "idefics3",
        lambda: transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
        ),
    ),
}


def family_of(kind: str, image_processor: Any = None, detail: str | None = None) -> PlaceholderFamily:
    known, _ = opened(kind)
    assert isinstance(known, PlaceholderFamily)
    if image_processor is None and detail is None:
        return known
    processor = type(known.processor)(
        image_processor or known.processor.image_processor,
        known.processor.tokenizer,
        **({} if kind.startswith("idefics-") or kind == "idefics" else {"image_seq_len": 4}),
    )
    return type(known)(processor, known.config, detail=detail)


def check(family: PlaceholderFamily, size: tuple[int, int]) -> None:
    image = picture(1, size)
    processor = family.processor.image_processor
    made = family.prepare(image)
    found = family.pixel_table.look_up(made.values, made.mask)
    if family.config.model_type == "idefics":
        expected = processor([image.pixels], return_tensors="pt")
    else:
        assert isinstance(family, TiledFamily)
        whole = processor([[image.pixels]], return_tensors="pt", **family.image_options)
        expected = whole["pixel_values"][0]
        mask = whole["pixel_attention_mask"][0]
        assert torch.equal(torch.ones_like(mask) if made.mask is None else made.mask.long(), mask)
        if "rows" in whole:
            assert (made.rows, made.cols) == (whole["rows"][0][0], whole["cols"][0][0])
    assert made.values.dtype == torch.uint8
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(width=st.integers(2, 150), height=st.integers(2, 150))
def test_any_size_is_as_the_processor_makes_it(kind: str, width: int, height: int) -> None:
    check(family_of(kind), (width, height))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(640, 480), (333, 777)])
def test_the_published_settings_too(name: str, size: tuple[int, int]) -> None:
    kind, make = PROCESSORS[name]
    check(family_of(kind, make()), size)


@pytest.mark.parametrize("detail", ["low", "medium", "high"])
def test_whatever_the_detail(detail: str) -> None:
    check(family_of("idefics3", transformers.Idefics3ImageProcessorPil(), detail), (300, 200))
    check(family_of("idefics2", transformers.Idefics2ImageProcessorPil(), detail), (300, 200))


def test_a_processor_that_does_something_else_is_run_as_it_is() -> None:
    family = family_of("idefics", transformers.IdeficsImageProcessorPil(do_normalize=False, image_size=28))
    image = picture(1)
    assert torch.equal(
        family.prepare(image).values, family.processor.image_processor([image.pixels], return_tensors="pt")
    )
