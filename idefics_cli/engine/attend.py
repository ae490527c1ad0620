"""How one token of each row attends to the tokens before it: ways that compute the same, for whoever does it fastest.

All take queries (rows, heads of keys, queries of a head, size), keys and values (rows, heads, columns, size), what is
added to scores, and what they are multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]

WIDENED_AT_ONCE = 1_000_000
"""How many values are float32 at a time: they stay in the cache of a CPU until they are multiplied."""


def choose_attend(like: Tensor, *, is_shared: bool, compiles: bool = False) -> Attend:
    """The way for values like these, where several heads of queries share one of keys or each has its own.

    With one query, a head's work is to read its keys. A CPU's kernel for 16 bits takes several times as long for that
    as the memory; where keys are shared, it takes no longer than the others.
    """
    if like.device.type != "cpu" or is_shared:
        return attend_dense
    if compiles:
        return attend_summed
    return attend_dense if like.dtype == torch.float32 else attend_widened


def attend_dense(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)


def attend_widened(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """In float32, some heads at a time."""
    rows, heads, count, _ = queries.shape
    asked = (queries.float() * scaling).flatten(0, 1)
    scores = asked.new_empty(rows * heads, count, keys.shape[2])
    for part, own in _widen(keys):
        torch.bmm(asked[part], own.transpose(1, 2), out=scores[part])
    weights = torch.softmax(scores.view(rows, heads, count, -1) + mask, -1).flatten(0, 1)
    found = torch.empty_like(asked)
    for part, own in _widen(values):
        torch.bmm(weights[part], own, out=found[part])
    return found.view(queries.shape).to(queries.dtype)


def attend_summed(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """In float32, as sums of which a compiler makes loops that read keys and values once."""
    scores = (queries[..., None, :].float() * keys[:, :, None].float()).sum(-1) * scaling + mask
    weights = torch.softmax(scores, -1)
    return (weights[..., None] * values[:, :, None].float()).sum(-2).to(queries.dtype)


def _widen(held: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some heads of some rows at a time, in memory that the next ones take again."""
    flat = held.flatten(0, 1)
    at_once = max(1, WIDENED_AT_ONCE // max(1, flat[0].numel()))
    room = torch.empty(min(at_once, len(flat)), *flat.shape[1:])
    for start in range(0, len(flat), at_once):
        part = slice(start, min(start + at_once, len(flat)))
        own = room[: part.stop - start]
        yield part, own.copy_(flat[part])
