"""Which items of a run have a row already: keys, runs and shards.

A key identifies the item of a row without looking at any image: `run-item`, where `run` stands for the model and the
command, and `item` for sources, fields, task, template, labels, examples and decoding; `-id` follows if the user named
the item, whose id is then enough to find it. Knows no files.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from ..content import MARK_BYTES, UNKNOWN, read_mark
from ..errors import IdeficsError, UsageError
from ..images import is_url
from ..prompts.tasks import TASKS
from ..values import Decoding, Example, Item

RUN_DIGITS, ITEM_DIGITS = 8, 16
COUNTING_SECONDS = 2.0
"""How long the first item of a part waits for the list to be counted."""
COUNTED_AT_ONCE, PAUSE_SECONDS = 256, 0.01
"""The same for a list that is counted while its items are answered."""
Standing = Literal["todo", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Run:
    """What all rows of a file have in common. `shown` are the fields that record it."""

    digest: str
    shown: Mapping[str, Any]

    def describe_difference(self, row: Mapping[str, Any]) -> str | None:
        """How a row of another run differs; None for one of this run."""
        if str(row["key"]).startswith(f"{self.digest}-"):
            return None
        for name, value in self.shown.items():
            if row.get(name) != value:
                return _describe_prompt(row, self.shown) or (
                    f"was written with {name} {json.dumps(row.get(name))}, which is now {json.dumps(value)}"
                )
        return "was written with another command, or other labels, shots or options of the model"

    def began(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of another run counts as one of this run."""
        return str(row.get("instead_of") or "").startswith(f"{self.digest}-")


def _describe_prompt(row: Mapping[str, Any], shown: Mapping[str, Any]) -> str | None:
    """What of --prompt sets a row apart, where it is that which chose its template."""
    task = TASKS.get(str(shown.get("task")))
    if task is None or row.get("model") != shown["model"]:
        return None
    templates = {task.template: "without --prompt", task.prompted_template: "with --prompt"}
    own, now = (templates.get(str(one.get("template")).partition("@")[0] or None) for one in (row, shown))
    return f"was made {own}" if own and now and own != now else None


def name_run(model: str, details: Mapping[str, Any], like: Item | None) -> Run:
    """The run of a model with these details; of one command if all its items are worded `like` this one."""
    shown: dict[str, Any] = {"model": model}
    if like is not None:
        shown |= {"task": like.task, "template": like.template, "decoding": like.decoding.list_changes()}
    return Run(_digest(shown, dict(details), like and _digest_wording(like))[:RUN_DIGITS], shown)


def list_spellings(images: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Other spellings of the same image names: unchanged, absolute, and relative to the current folder."""
    named = tuple(map(_straighten, images))
    yield named
    absolute = tuple(one if _is_bound(one) else os.path.abspath(one) for one in named)
    if absolute != named:
        yield absolute
    relative = tuple(one if _is_bound(one) else os.path.relpath(one) for one in named)
    if relative not in (named, absolute):
        yield relative


def _is_bound(source: str) -> bool:
    """Whether a source has only one name: no path, or one whose `..` may go through a link."""
    return source in ("", "-") or is_url(source) or ".." in source.split("/")


def _straighten(source: str) -> str:
    """A path without `./` and `//`."""
    return source if _is_bound(source) else os.path.normpath(source)


def name_item(run: Run, item: Item, images: tuple[str, ...] | None = None) -> str:
    """The key of an item, or of one with its images spelled otherwise."""
    named = item.id if item.is_named else None
    images = tuple(map(_straighten, item.images)) if images is None else images
    content = (_digest_wording(item), images, sorted(item.fields), item.problem, named)
    return f"{run.digest}-{_digest(run.digest, *content)[:ITEM_DIGITS]}{'-id' if item.is_named else ''}"


def name_wording(run: Run, item: Item) -> str:
    """The key of a wording, without the image."""
    return _digest(run.digest, _digest_wording(item), sorted(item.fields))[:ITEM_DIGITS]


def is_in_shard(item: Item, index: int, count: int) -> bool:
    """Whether an item belongs to shard `index` of `count`, from 1. Items about the same images stay together."""
    if count == 1:
        return True
    same = (item.id,) if item.is_named or not item.images else item.images
    return int(_digest(same), 16) % count == index - 1


def take_shard(
    items: Iterable[Item], index: int, count: int, list_again: Callable[[], Iterable[Item]] | None
) -> Iterator[Item]:
    """The items of one part, each with its place in the whole list, from 0; all of them, without places, if there is
    one part.

    They also get the numbers of items in that part and in the list, if it can be listed twice: a short list is counted
    first, a long one meanwhile, so its first items do not have them.
    """
    if count == 1:
        yield from items
        return
    counts = _Counts()
    if list_again is not None:
        counter = threading.Thread(target=counts.find, args=(list_again, index, count), daemon=True)
        counter.start()
        counter.join(COUNTING_SECONDS)
        counts.is_awaited = False
    for place, item in enumerate(items):
        if is_in_shard(item, index, count):
            own, every = counts.found or (None, None)
            told = {"index": index, "count": count, "place": place, "part_items": own, "items": every}
            yield replace(item, shard=told)


@dataclass(slots=True)
class _Counts:
    """The number of items in a part and in the whole list, once known."""

    found: tuple[int, int] | None = None
    is_awaited: bool = True

    def find(self, list_items: Callable[[], Iterable[Item]], index: int, count: int) -> None:
        own = every = 0
        with suppress(IdeficsError, OSError):  # who lists the items for good tells what is wrong with the list
            for item in list_items():
                own, every = own + is_in_shard(item, index, count), every + 1
                if not self.is_awaited and every % COUNTED_AT_ONCE == 0:
                    time.sleep(PAUSE_SECONDS)  # others have work to do meanwhile
            self.found = own, every


class _Marks:
    """The marks of the rows of each key, in the order of their lines."""

    def __init__(self) -> None:
        self._marks: dict[int, bytes] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._marks

    def count(self, key: int) -> int:
        return len(self._marks.get(key, b"")) // MARK_BYTES

    def add(self, key: int, mark: bytes) -> None:
        self._marks[key] = self._marks.get(key, b"") + mark

    def take(self, key: int) -> bytes:
        """The first mark of a key, which is removed."""
        marks = self._marks.pop(key)
        if rest := marks[MARK_BYTES:]:
            self._marks[key] = rest
        return marks[:MARK_BYTES]

    def has_other(self, key: int, mark: bytes) -> bool:
        """Whether the first mark is of other files; the same content with a newer time is not."""
        first, half = self._marks.get(key, UNKNOWN)[:MARK_BYTES], MARK_BYTES // 2
        return UNKNOWN not in (first, mark) and first[half:] != mark[half:]


def have_not_changed(mark: bytes, item: Item) -> bool:
    """The check when images are not compared."""
    return False


@dataclass(slots=True)
class Ledger:
    """The rows of a file, by their keys. Each row settles one item, even if several items are the same.

    `lookup` and `replace` may be called from two threads.
    """

    retries: bool
    """Whether items whose row is a failed one are to be answered again."""
    retries_changed: bool = False
    """Whether those are whose images have been replaced by others since."""
    has_changed: Callable[[bytes, Item], bool] = have_not_changed
    """Looks whether an item's images are others than when its row was marked."""
    changed: int = 0
    """How many items' images are."""
    replaced: Counter[int] = field(default_factory=Counter)
    """How many failed rows of a key have a newer one instead."""
    outdated: Counter[int] = field(default_factory=Counter)
    """How many good ones have, as their images were replaced."""
    _good: _Marks = field(default_factory=_Marks)
    _failed: _Marks = field(default_factory=_Marks)
    _named: dict[int, int] = field(default_factory=dict)
    _awaited: Counter[int] = field(default_factory=Counter)
    _answered: Counter[int] = field(default_factory=Counter)
    _awaited_changed: Counter[int] = field(default_factory=Counter)
    _answered_changed: Counter[int] = field(default_factory=Counter)
    _former: dict[int, int] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of the file, in the order of its lines."""
        key, mark = number_key(row["key"]), read_mark(row)
        is_named = row["key"].endswith("-id")
        if is_named:
            former = self._named.get(number_text(row["id"]), key)
            self._named[number_text(row["id"])] = key
            if former != key and former in self._failed:
                self._failed.take(former)
                self.replaced[former] += 1
        if row["error"] is None:
            # A run that made it again ended before it could take out the row that was there.
            if key in self._failed:
                self._failed.take(key)
                self.replaced[key] += 1
            elif self._good.has_other(key, mark):
                self._good.take(key)
                self.outdated[key] += 1
            self._good.add(key, mark)
        elif self.retries and not is_named and row["error"]["code"] == "bad_item":
            self.replaced[key] += 1  # whether its line has been mended since, its key does not tell
        else:
            self._failed.add(key, mark)

    def count(self, row: Mapping[str, Any]) -> None:
        """Count an answered row of another run that counts as one of this run."""
        self._good.add(number_key(row["instead_of"]), read_mark(row))

    def count_good(self, number: int) -> int:
        """How many answered rows of a key there are that no item has been found to be about."""
        return self._good.count(number)

    def lookup(self, item: Item) -> Standing:
        """Whether an item has a row: None, failed, or answered."""
        key = number_key(item.key)
        former = self._named.get(number_text(item.id), key) if item.is_named else key
        if former != key:
            if former not in self._failed:
                raise UsageError(
                    f"item {item.id!r} has changed since its row was written",
                    hint="give it another id, or start anew with --existing overwrite",
                )
            self._failed.take(former)
            self._former[key] = former
            self._awaited[key] += 1
        elif key in self._good:
            if not self._is_due(self._good.take(key), item):
                return "done"
            self._awaited_changed[key] += 1
        elif key in self._failed:
            mark = self._failed.take(key)
            if not self.retries and not self._is_due(mark, item):
                return "failed"
            self._awaited[key] += 1
        return "todo"

    def _is_due(self, mark: bytes, item: Item) -> bool:
        has_changed = self.has_changed(mark, item)
        self.changed += has_changed
        return has_changed and self.retries_changed

    def has(self, key: str) -> bool:
        """Whether there is a row with this key that belongs to no item yet."""
        number = number_key(key)
        return number in self._good or number in self._failed

    def replace(self, key: str) -> None:
        """Count a row that was written, and one of its item that it replaced."""
        number = number_key(key)
        if self._answered_changed[number] < self._awaited_changed[number]:
            self._answered_changed[number] += 1
            self.outdated[number] += 1
        elif self._answered[number] < self._awaited[number]:
            self._answered[number] += 1
            self.replaced[self._former.get(number, number)] += 1


def number_key(key: str) -> int:
    """The item's part of a key. Raises ValueError for what is no key."""
    digits = key[RUN_DIGITS + 1 : RUN_DIGITS + 1 + ITEM_DIGITS]
    if len(digits) < ITEM_DIGITS or key[RUN_DIGITS] != "-":
        raise ValueError(key)
    return int(digits, 16)


def _digest_wording(item: Item) -> str:
    choosing = (*item.labels, str(item.is_ranked), item.normalize) if item.labels else ()
    if item.answer_format is not None:
        choosing = (*choosing, item.answer_format.kind, item.answer_format.text)
    return _digest_words(item.task, item.template, item.decoding, choosing, item.examples)


@lru_cache(maxsize=64)  # nearly all items of a run share theirs, and there may be many labels
def _digest_words(
    task: str, template: str, decoding: Decoding, choosing: tuple[str, ...], examples: tuple[Example, ...]
) -> str:
    shots = [(shot.images, shot.fields, shot.answer, shot.turn) for shot in examples]
    return _digest(task, template, decoding.list_changes(), choosing, shots)


def number_text(text: str) -> int:
    """A number for a text."""
    return int(_digest(text)[:ITEM_DIGITS], 16)


def _digest(*values: object) -> str:
    """A digest that is the same on every machine and in every version of Python."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).hexdigest()
