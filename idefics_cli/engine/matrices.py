"""The matrices of a step of decoding, each as a product of few rows is fastest: joined, and laid out for the CPU.

A CPU with memory to spare keeps the matrices a second time, laid out for its own kernels.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm

from ..models.devices import count_free_bytes

PACKED_SHARE = 4
"""Matrices are laid out anew where they take no more than one part in so many of the free memory."""

ROWS_HINT = 8
"""The rows that the layout is best for; it serves any number."""

Matrix = Callable[[Tensor], Tensor]
MatrixKind = Callable[[Sequence[Any]], Matrix]
"""Makes one product of linear layers."""


def normalize(hidden: Tensor, norm: Any) -> Tensor:
    return rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)


def is_plain(linears: Sequence[Any]) -> bool:
    """Whether these are matrices as they are trained, and nothing else."""
    return all(type(one) is torch.nn.Linear and one.bias is None for one in linears)


def choose_kind(parts: Sequence[Sequence[Any]]) -> MatrixKind:
    """How to multiply with all of these, those of one part being one product."""
    some = parts[0][0].weight
    held = sum(linear.weight.nbytes for part in parts for linear in part)
    return _pack if _can_pack(some, held) else _leave


def _can_pack(some: Tensor, held_bytes: int) -> bool:
    """Whether the CPU has a layout of its own for matrices of this kind, and the memory for it."""
    if some.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if some.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    is_known = some.dtype in (torch.float32, torch.bfloat16)
    return is_known and held_bytes * PACKED_SHARE <= count_free_bytes(some.device)


def _leave(parts: Sequence[Any]) -> Matrix:
    return partial(linear, weight=_stack(parts))


def _pack(parts: Sequence[Any]) -> Matrix:
    packed = torch.ops.mkldnn._reorder_linear_weight(_stack(parts), ROWS_HINT)

    def multiply(hidden: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, packed, None, "none", [], "")
        return product

    return multiply


def _stack(parts: Sequence[torch.nn.Linear]) -> Tensor:
    """The matrices as one, of which each part keeps its own as a view: nothing is held twice."""
    total = sum(part.out_features for part in parts)
    first = parts[0].weight.detach()
    if len(parts) == 1:
        return first
    size = first[0].nbytes
    starts = [part.weight.data_ptr() - first.data_ptr() for part in parts]
    expected = [size * sum(part.out_features for part in parts[:place]) for place in range(len(parts))]
    if starts == expected and first.untyped_storage().nbytes() >= size * total:
        return first.as_strided((total, first.shape[1]), (first.shape[1], 1))
    joined = torch.cat([part.weight.detach() for part in parts])
    start = 0
    for part in parts:
        count = part.out_features
        part.weight = torch.nn.Parameter(joined[start : start + count], requires_grad=False)
        start += count
    return joined
