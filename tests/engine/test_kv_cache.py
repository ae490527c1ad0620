"""The cache with room holds what the cache of transformers holds, whatever is done to it."""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from idefics_cli.engine.kv_cache import ROOM_TOKENS, open_cache, read_cache

LAYERS = 2


def states(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, tokens, 4), torch.randn(rows, 3, tokens, 5)


def begin(rows: int, prefix: int) -> list[Any]:
    """A roomy cache over a prefix of one row, and a plain one."""
    kept = tuple(states(1, prefix) for _ in range(LAYERS))
    plain = DynamicCache()
    for index, (keys, values) in enumerate(kept):
        plain.update(keys.repeat(rows, 1, 1, 1), values.repeat(rows, 1, 1, 1), index)
    return [open_cache(kept, rows), plain]


def feed(caches: list[Any], rows: int, tokens: int) -> None:
    for index in range(LAYERS):
        given = states(rows, tokens)
        roomy, plain = (cache.update(*given, index) for cache in caches)
        assert all(torch.equal(one, other) for one, other in zip(roomy, plain, strict=True))
    assert caches[0].get_seq_length() == caches[1].get_seq_length()


def test_whatever_is_done_the_contents_are_those_of_the_plain_cache() -> None:
    torch.manual_seed(0)
    caches = begin(3, 10)
    feed(caches, 3, 7)
    for _ in range(3):
        feed(caches, 3, 1)
    for cache in caches:
        cache.crop(-4)
    feed(caches, 3, 2)
    for cache in caches:
        cache.batch_repeat_interleave(2)
    feed(caches, 6, 1)
    for cache in caches:
        cache.reorder_cache(torch.tensor([5, 5, 0, 1, 3, 2]))
    feed(caches, 6, 1)
    feed(caches, 6, ROOM_TOKENS * 2)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([4, 0]))
    feed(caches, 2, 1)


def test_a_prefix_is_never_written_to() -> None:
    kept = (states(1, 6),)
    before = tuple(one.clone() for one in kept[0])
    for rows in (1, 2):
        cache = open_cache(kept, rows)
        cache.update(*states(rows, 3), 0)
        cache.crop(-5)
        cache.update(*states(rows, 3), 0)
    assert all(torch.equal(one, other) for one, other in zip(kept[0], before, strict=True))


def test_a_step_copies_nothing() -> None:
    (cache, _) = begin(2, 10)
    places = set()
    for _ in range(ROOM_TOKENS // 2):
        keys, _ = cache.update(*states(2, 1), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1


def test_what_is_read_has_no_room_behind_it() -> None:
    cache = open_cache()
    cache.update(*states(1, 3), 0)
    ((keys, values),) = read_cache(cache)
    assert keys.untyped_storage().nbytes() == keys.numel() * 4
    assert values.shape == (1, 3, 3, 5)
