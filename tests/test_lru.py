"""The memory of computed things: bounded in bytes, the longest unused goes first."""

from __future__ import annotations

from idefics_cli.lru import LRUCache


def test_the_longest_unused_goes_first() -> None:
    store: LRUCache[str, int] = LRUCache(10)
    for number, key in enumerate("abc"):
        store.keep(key, number, 4 if key != "b" else 2)
    assert store.find("a") == 0
    store.keep("d", 3, 4)
    assert store.list_keys() == ["a", "d"], "b and c made room, as a was used again"
    assert store.used_bytes == 8
    store.keep("d", 4, 1)
    assert (store.find("d"), store.used_bytes) == (4, 5)


def test_what_is_too_large_is_not_kept() -> None:
    store: LRUCache[str, int] = LRUCache(10)
    store.keep("a", 1, 10)
    store.keep("b", 2, 11)
    assert store.list_keys() == ["a"]
    assert store.find("b") is None


def test_a_smaller_limit_counts_at_once() -> None:
    store: LRUCache[str, int] = LRUCache(10)
    store.keep("a", 1, 5)
    store.keep("b", 2, 5)
    store.shrink(5)
    assert store.list_keys() == ["b"]
    store.clear()
    assert (store.list_keys(), store.used_bytes) == ([], 0)


def test_a_value_that_is_needed_soon_outlives_others_and_tells_its_size() -> None:
    store: LRUCache[str, int] = LRUCache(10)
    store.keep("a", 1, 4)
    store.keep("b", 2, 5)
    assert (store.touch("a"), store.touch("c")) == (4, 0)
    store.keep("d", 4, 5)
    assert ("a" in store, "b" in store) == (True, False)
