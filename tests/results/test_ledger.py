"""Keys, shards, and which items have a row."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.errors import UsageError
from idefics_cli.results.ledger import Ledger, is_in_shard, name_item, name_run
from idefics_cli.values import Decoding, Example, Item

LIKE = Item("", task="vqa", template="vqa@1", decoding=Decoding(max_new_tokens=20))
RUN = name_run("smolvlm", {"style": None}, LIKE)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
ITEMS = st.builds(
    Item,
    TEXTS,
    images=st.lists(TEXTS, max_size=2).map(tuple),
    fields=st.dictionaries(TEXTS, TEXTS, max_size=2).map(lambda fields: tuple(fields.items())),
    task=st.just("vqa"),
    is_named=st.booleans(),
)


def keyed(item: Item) -> Item:
    return replace(item, key=name_item(RUN, item))


def row(item: Item, *, failed: bool = False) -> dict[str, Any]:
    error = {"code": "timeout", "message": "x"} if failed else None
    return {"id": item.id, "key": item.key, "task": item.task, "error": error}


def ledger(*rows: dict[str, Any], retries: bool = False) -> Ledger:
    made = Ledger(retries)
    for each in rows:
        made.add(each)
    return made


def test_keys_stay_the_same_from_version_to_version() -> None:
    """Files of rows outlive a release: if this fails, every one of them would be refused."""
    item = Item("a.jpg", ("a.jpg",), (("question", "où?"),), "vqa", "vqa@1", decoding=Decoding(20))
    assert name_item(RUN, item) == "a581c989-e9e239f287a3eb79"
    assert name_item(RUN, replace(item, id="7", is_named=True)).endswith("-id")


@pytest.mark.parametrize(
    "change",
    [
        {"images": ("b.jpg",)},
        {"images": ("a.jpg", "a.jpg")},
        {"images": ("a\udcff.jpg",)},
        {"fields": (("question", "b"),)},
        {"task": "caption"},
        {"template": "vqa@2"},
        {"labels": ("a", "b")},
        {"labels": ("a", "b"), "is_ranked": False},
        {"examples": (Example(("s.jpg",), (), "x"),)},
        {"decoding": Decoding(temperature=0.5)},
    ],
)
def test_whatever_changes_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    item = replace(LIKE, images=("a.jpg",), fields=(("question", "a"),))
    assert name_item(RUN, replace(item, **change)) != name_item(RUN, item)
    assert name_item(RUN, replace(item, fields=item.fields[::-1])) == name_item(RUN, item)


@settings(deadline=None)
@given(st.lists(ITEMS, max_size=12), st.data())
def test_a_run_cut_anywhere_answers_the_rest_and_nothing_twice(items: list[Item], data: st.DataObject) -> None:
    """With the same item named twice, and in whatever order rows were finished."""
    named: dict[str, Item] = {}
    items = [keyed(named.setdefault(item.id, item) if item.is_named else item) for item in items]
    rows = data.draw(st.permutations([row(item, failed=data.draw(st.booleans())) for item in items]))
    before = rows[: data.draw(st.integers(0, len(rows)))]
    if any(a["error"] != b["error"] for a in rows for b in rows if a["key"] == b["key"]):
        return  # the same item both failed and answered: it is made again, which the next test is about
    book = ledger(*before)
    todo = Counter(item.key for item in items if book.lookup(item) == "todo")
    assert todo + Counter(each["key"] for each in before) == Counter(item.key for item in items)


def test_failed_rows_are_made_again_only_when_asked_and_then_replaced() -> None:
    good, bad = keyed(Item("g", ("g.png",), task="vqa")), keyed(Item("b", ("b.png",), task="vqa"))
    rows = (row(good), row(bad, failed=True))
    book = ledger(*rows)
    assert [book.lookup(good), book.lookup(bad)] == ["done", "failed"]
    book = ledger(*rows, retries=True)
    assert [book.lookup(good), book.lookup(bad)] == ["done", "todo"]
    assert not book.replaced
    book.replace(bad.key)
    assert book.replaced.total() == 1


def test_a_crash_between_a_new_row_and_the_removal_of_the_failed_one_is_made_good() -> None:
    bad = keyed(Item("b", ("b.png",)))
    book = ledger(row(bad, failed=True), row(bad))
    assert (book.lookup(bad), book.replaced.total()) == ("done", 1)


def test_a_named_item_that_changed_is_not_taken_for_answered() -> None:
    before = keyed(Item("q7", ("a.png",), (("question", "a?"),), is_named=True))
    after = keyed(Item("q7", ("a.png",), (("question", "b?"),), is_named=True))
    with pytest.raises(UsageError, match="'q7' has changed"):
        ledger(row(before)).lookup(after)
    book = ledger(row(before, failed=True))  # but one that failed may be mended
    assert book.lookup(after) == "todo"
    book.replace(after.key)
    assert book.replaced.total() == 1
    mended = ledger(row(before, failed=True), row(after))
    assert (mended.lookup(after), mended.replaced.total()) == ("done", 1)


def test_another_run_says_what_differs() -> None:
    ours = {"key": keyed(Item("a")).key, "model": "smolvlm"}
    assert RUN.describe_difference(ours) is None
    now = row(keyed(Item("a"))) | {"model": "smolvlm", "task": "vqa", "template": "vqa@1"}
    now["decoding"] = {"max_new_tokens": 20}
    for name, value in (("model", "idefics2"), ("task", "caption"), ("template", "mine@2"), ("decoding", {})):
        other = name_run("idefics2", {}, LIKE)
        difference = RUN.describe_difference(now | {"key": name_item(other, Item("a")), name: value})
        assert difference is not None
        assert difference.startswith(f"was written with {name}")
    labels = name_run("smolvlm", {"style": None}, replace(LIKE, labels=("a", "b"), is_ranked=False))
    difference = RUN.describe_difference(now | {"key": name_item(labels, Item("a"))})
    assert difference is not None
    assert "labels" in difference


@settings(deadline=None)
@given(st.lists(ITEMS, max_size=20), st.integers(1, 7))
def test_shards_are_a_partition(items: list[Item], count: int) -> None:
    for item in items:
        assert sum(is_in_shard(item, index, count) for index in range(1, count + 1)) == 1


def test_shards_are_about_equal_and_keep_the_questions_of_an_image_together() -> None:
    items = [Item(f"{n}", (f"folder/{n}.jpg",)) for n in range(4000)]
    sizes = [sum(is_in_shard(item, index, 4) for item in items) for index in (1, 2, 3, 4)]
    assert sum(sizes) == 4000
    assert max(sizes) - min(sizes) < 200
    assert [n for n in range(20) if is_in_shard(items[n], 1, 4)] == [3, 5, 12, 14]
    asked = [Item("x", ("a.jpg",), (("question", str(n)),)) for n in range(20)]
    assert len({is_in_shard(item, 1, 2) for item in asked}) == 1
