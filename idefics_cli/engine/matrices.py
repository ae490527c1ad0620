"""The matrices of a decoding step, in the form whose product with few rows is fastest: joined, and laid out for the
CPU.

A CPU with enough memory keeps a second copy in the layout of its own kernels. Matrices of eight bits stay as they are:
a product with few rows reads half the bytes.
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

INT8_ROWS = 24
"""More rows than these are faster with the bytes made numbers first."""

Matrix = Callable[[Tensor], Tensor]
MatrixKind = Callable[[Sequence[Any]], Matrix]
"""Makes one product of linear layers."""


def normalize(hidden: Tensor, norm: Any) -> Tensor:
    return rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)


def is_plain(linears: Sequence[Any]) -> bool:
    """Whether these are unquantized, without bias."""
    return all(type(one) is torch.nn.Linear and one.bias is None for one in linears)


def can_join(linears: Sequence[Any]) -> bool:
    """Whether these can be one product."""
    return is_plain(linears) or all(map(_is_int8, linears)) or all(map(_is_four_bit, linears))


def choose_kind(parts: Sequence[Sequence[Any]]) -> MatrixKind:
    """How to multiply with all of these; the matrices of one group become one product."""
    whole = [linear.weight for part in parts if is_plain(part) for linear in part]
    packs = bool(whole) and _can_pack(whole[0], sum(weight.nbytes for weight in whole))

    def make(part: Sequence[Any]) -> Matrix:
        if is_plain(part):
            return _pack(part) if packs else _leave(part)
        return _join_int8(part) if _is_int8(part[0]) else _join_results(part)

    return make


def _is_int8(linear: Any) -> bool:
    """Whether Quanto holds it in eight bits by row and this CPU has a product for that, with bfloat16."""
    weight = getattr(linear, "weight", None)
    data, scale = getattr(weight, "_data", None), getattr(weight, "_scale", None)
    if not isinstance(data, Tensor) or not isinstance(scale, Tensor) or linear.bias is not None:
        return False
    is_of_rows = data.dtype == torch.int8 and scale.dtype == torch.bfloat16 and scale.numel() == len(data)
    return is_of_rows and data.device.type == "cpu" and getattr(linear, "activation_qtype", None) is None


def _is_four_bit(linear: Any) -> bool:
    """Whether bitsandbytes holds it in four bits on a CPU, where the product of one row is twice as fast."""
    is_one = type(linear).__module__.startswith("bitsandbytes.") and type(linear).__name__ == "Linear4bit"
    return is_one and linear.bias is None and linear.weight.device.type == "cpu"


def _join_results(parts: Sequence[Any]) -> Matrix:
    """Multiply each as its library does and join the results."""

    def multiply(hidden: Tensor) -> Tensor:
        return torch.cat([part(hidden) for part in parts], dim=-1) if len(parts) > 1 else parts[0](hidden)

    return multiply


def _join_int8(parts: Sequence[Any]) -> Matrix:
    """Join into one; each part becomes a view of it."""
    data = torch.cat([part.weight._data for part in parts])
    scale = torch.cat([part.weight._scale.flatten() for part in parts])
    start = 0
    for part in parts:
        part.weight._data = data[start : start + part.out_features]
        start += part.out_features

    def multiply(hidden: Tensor) -> Tensor:
        if len(hidden) <= INT8_ROWS:
            return torch._weight_int8pack_mm(hidden, data, scale)
        return linear(hidden, data.to(hidden.dtype)) * scale

    return multiply


def _can_pack(some: Tensor, held_bytes: int) -> bool:
    """Whether the CPU has a layout of its own for such matrices, and enough memory for it."""
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
    """Join the matrices into one; each part becomes a view of it, so nothing is held twice."""
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
