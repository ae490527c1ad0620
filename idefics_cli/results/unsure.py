"""Unsure answers that another model or template answers again: which rows, and which new row replaces which.

A new row names the one it replaces (`instead_of`), so the run that began the file can continue with it. Knows rows and
items, no files.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..rows import read_confidence
from ..url_secrets import hide_secrets
from ..values import Item
from .ledger import list_spellings, number_key, number_text

_WORDED = ("labels", "schema")
"""Fields that come from a template, which another one may not have."""
Standing = Literal["unsure", "done", "failed", "none"]


class Successions:
    """Which rows of a file, in the order of its lines, were replaced by another.

    Only rows of other runs are kept; of this run, which has many, only the number.
    """

    def __init__(self, count_own: Callable[[int], int]) -> None:
        self.superseded: Counter[int] = Counter()
        """How many rows of a key are to be taken out."""
        self._count_own = count_own
        self._present: Counter[int] = Counter()
        self._successors: dict[int, list[int]] = {}

    def add(self, key: str, instead_of: str | None, *, is_own: bool) -> bool:
        """Note a row that was answered. Returns whether it replaces an earlier row."""
        own = number_key(key)
        took = False
        if instead_of:
            root = number_key(instead_of)
            line = self._successors.setdefault(root, [root])
            former = next((one for one in line if one != own and self._is_there(one)), None)
            if former is not None:
                self.superseded[former] += 1
                took = True
            elif not is_own:
                self._present[root] -= 1  # it stands for a row of this run from now on, but is not there by that key
            if own not in line:
                line.append(own)
        if not is_own:
            self._present[own] += 1
        return took

    def _is_there(self, key: int) -> bool:
        return self._present[key] + self._count_own(key) > self.superseded[key]


class UnsureRows:
    """The rows of other runs in a file, by what they are about."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._unsure: defaultdict[int, list[str]] = defaultdict(list)
        self._others: dict[Literal["done", "failed"], Counter[int]] = {"done": Counter(), "failed": Counter()}
        self.count = 0

    def add(self, row: Mapping[str, Any]) -> None:
        about, root = self._name_row(row), row.get("instead_of") or row["key"]
        self.count += 1
        self.forget(row)
        if row["error"] is not None:
            self._others["failed"][about] += 1
        elif read_confidence(row)[0] < self._least:
            self._unsure[about].append(root)
        else:
            self._others["done"][about] += 1

    def forget(self, row: Mapping[str, Any]) -> None:
        """Stop counting the row that a new one has replaced."""
        about = self._name_row(row) if row.get("instead_of") else None
        if about is not None and row["instead_of"] in self._unsure[about]:
            self._unsure[about].remove(row["instead_of"])

    def lookup(self, item: Item) -> tuple[Standing, str]:
        """The outcome of an item in another run, and the key of the row to replace. A row settles one item."""
        spelled = [
            _number(item.id if item.is_named else None, images, dict(item.fields))
            for images in list_spellings(tuple(map(hide_secrets, item.images)))
        ]
        for about in spelled:
            if self._unsure[about]:
                return "unsure", self._unsure[about].pop(0)
        for standing, counts in self._others.items():
            for about in spelled:
                if counts[about]:
                    counts[about] -= 1
                    return standing, ""
        return "none", ""

    def _name_row(self, row: Mapping[str, Any]) -> int:
        images = row["images"]
        if "path_b64" in row:
            images = [os.fsdecode(base64.b64decode(one)) for one in row["path_b64"]]
        named = row["id"] if row["key"].endswith("-id") else None
        return _number(named, next(list_spellings(tuple(images))), row["fields"])


def _number(named: str | None, images: tuple[str, ...], fields: Mapping[str, Any]) -> int:
    kept = {name: value for name, value in fields.items() if name not in _WORDED}
    return number_text(json.dumps([named, images, kept], sort_keys=True))
