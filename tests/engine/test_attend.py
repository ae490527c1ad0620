"""Each way to attend computes what its definition says; in float32 closer to it than torch's own way for 16 bits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from idefics_cli.engine.attend import (
    WIDENED_AT_ONCE,
    Attend,
    attend_dense,
    attend_summed,
    attend_widened,
    choose_attend,
)

SCALING = 0.25
Drawn = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(rows: int, heads: int, count: int, columns: int, size: int, dtype: torch.dtype) -> Drawn:
    """Buffers that are longer than what is seen, each row with hidden columns of its own."""
    generator = torch.Generator().manual_seed(rows + heads + columns)
    queries = 3 * torch.randn(rows, heads, count, size, generator=generator)
    room = torch.randn(2, rows + 1, heads, columns + 3, size, generator=generator).to(dtype)
    keys, values = room[:, :rows, :, :columns]
    hidden = torch.arange(columns) < torch.arange(rows)[:, None] % columns
    mask = torch.where(hidden, torch.finfo(dtype).min, 0.0)[:, None, None].to(dtype)
    return queries.to(dtype), keys, values, mask


def define(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """https://arxiv.org/abs/1706.03762, equation 1."""
    scores = queries.double() @ keys.double().mT * SCALING
    return torch.softmax(scores.masked_fill(mask < 0, -torch.inf), -1) @ values.double()


def miss(attend: Attend, drawn: Drawn) -> float:
    return float((attend(*drawn, SCALING).double() - define(*drawn)).norm() / define(*drawn).norm())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 70),
    st.sampled_from((4, 16)),
    st.sampled_from((attend_dense, attend_widened, attend_summed)),
    st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
)
def test_it_is_attention(
    rows: int, heads: int, count: int, columns: int, size: int, attend: Attend, dtype: torch.dtype
) -> None:
    drawn = draw(rows, heads, count, columns, size, dtype)
    assert attend(*drawn, SCALING).dtype == dtype
    assert miss(attend, drawn) < 4 * torch.finfo(dtype).eps


def test_what_does_not_fit_at_once_is_widened_in_parts() -> None:
    drawn = draw(3, 8, 1, 700, 64, torch.bfloat16)
    assert drawn[1].numel() > WIDENED_AT_ONCE
    assert miss(attend_widened, drawn) <= miss(attend_dense, drawn)
    assert miss(attend_summed, drawn) <= miss(attend_dense, drawn)


def test_a_way_is_chosen_by_what_reads_the_keys() -> None:
    narrow, wide = torch.empty(0, dtype=torch.bfloat16), torch.empty(0)
    assert choose_attend(narrow, is_shared=False) is attend_widened
    assert choose_attend(narrow, is_shared=True) is attend_dense
    assert choose_attend(wide, is_shared=False) is attend_dense
    assert choose_attend(wide, is_shared=False, compiles=True) is attend_summed
    assert choose_attend(narrow.to("meta"), is_shared=False, compiles=True) is attend_dense
