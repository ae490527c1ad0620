"""Rows under review: searched, shown and corrected, while other programs add to their files.

Safe from many threads. Knows no HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..images import name_source
from ..lru import LRUCache
from .columns import NO_ROW
from .corrections import (
    Corrections,
    State,
    Who,
    apply_state,
    edit_text,
    list_changed,
    replace_words,
    review_path,
    set_label,
)
from .duplicates import find_duplicates
from .filter import CATEGORIES, Selection, count_values, order, parse_query, select
from .index import RowIndex, Snapshot
from .page import show_row
from .summary import RowAnswer, identify, read_answer, read_sources, summarise
from .thumbnails import Size, Thumbnails

MAX_PAGE = 200
MAX_VALUES = 30
MAX_AT_ONCE = 200_000
WATCH_SECONDS = 0.5
_KEPT = 3
Action = Literal["text", "label", "replace", "accept", "reject", "left", "right"]
NEEDED: dict[Action, tuple[str, ...]] = {"text": ("text",), "label": ("label",), "replace": ("old", "new")}
"""The values that an action goes with."""


class Outdated(Exception):
    """The request is about rows that have changed since."""


@dataclass(frozen=True, slots=True)
class View:
    """What a page shows: a filter, an order, and a number that the page changes to search again.

    Rows keep their place while they are corrected, even if the filter would not match them any more.
    """

    query: str = ""
    sort: str = ""
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of a view in their order; `count` is the number of all rows."""

    table: Snapshot
    count: int
    rows: npt.NDArray[np.int32]
    selection: Selection


class ReviewSession:
    """One file of rows and its corrections, with another file or without."""

    def __init__(self, paths: Sequence[Path], cache: Path, only: Iterable[Who] | None = None) -> None:
        """Open the files; `only` names the rows to review, if not all of them."""
        self.paths = tuple(paths)
        self.index = RowIndex(paths, cache / "review")
        if only is not None:
            self.index.only = np.array([hash(who) for who in only], np.int64)
        self.corrections = Corrections(review_path(paths[0]))
        self.thumbnails = Thumbnails(cache / "thumbnails")
        self.changes = 0
        """Grows with every correction, whoever makes it."""
        self.trouble = ""
        self._lock = self.index.lock
        self._views: LRUCache[object, Found] = LRUCache(_KEPT)
        self._labels: list[str] = []
        self._duplicates = threading.Event()
        self._ending = threading.Event()
        self._compared: tuple[int, int] | None = None
        self.read_corrections()

    def read_all(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Read the files and the corrections."""
        generation = self.index.generation
        while not should_stop() and (rows := self.index.extend()) is not None:
            with self._lock:
                if self.index.generation != generation:
                    generation = self.index.generation
                    self._apply(np.arange(self.index.count), self.corrections.states)
                self._apply(rows, self.corrections.states)
        self.read_corrections()

    def follow(self) -> None:
        """Read on as the files grow, until `close`. For a thread of its own."""
        self.thumbnails.prune()
        while not self._ending.is_set():
            try:
                self.read_all(self._ending.is_set)
                if self._duplicates.is_set():
                    self._duplicates.clear()
                    self._compare_images()
            except (UsageError, OSError) as error:
                self.trouble = str(error)
            self._ending.wait(WATCH_SECONDS)

    def close(self) -> None:
        self._ending.set()

    def read_corrections(self) -> None:
        """Read decisions that another program appended."""
        with self._lock:
            if found := self.corrections.read():
                self.changes += 1
                self._apply(np.arange(self.index.count), found)

    def show(self, view: View, start: int, count: int, *, facets: bool) -> dict[str, Any]:
        """The rows of a view from `start` on, their number, and the values to choose from."""
        self.read_corrections()
        found = self._find(view)
        counted = self._count(found) if facets else None
        with self._lock:
            rows = found.rows[max(0, start) : max(0, start) + min(max(0, count), MAX_PAGE)]
            done, total = self.index.read_bytes
            reply: dict[str, Any] = {
                "rows": [self._show(int(row)) for row in rows],
                "name": " and ".join(name_source(path.name) for path in self.paths),
                "isCompared": len(self.paths) > 1,
                "start": max(0, start),
                "found": len(found.rows),
                "count": found.count,
                "generation": self.index.generation,
                "changes": self.changes,
                "reading": None if done >= total else done / total,
                "trouble": self.trouble,
            }
            if "is:duplicate" in view.query and self.index.duplicates_known < self.index.count:
                self._duplicates.set()
                reply["comparing"] = self._compared or (0, self.index.count)
            if counted is not None:
                reply |= {"facets": counted, "labels": self._labels}
            return reply

    def show_whole(self, row: int) -> dict[str, Any]:
        """One row with all of its text."""
        with self._lock:
            self._check(row)
            return self._show(row, is_whole=True)

    def list_rows(self) -> list[dict[str, Any]]:
        """All rows there are to look at, with all of their text."""
        with self._lock:
            return [self._show(int(row), is_whole=True) for row in np.flatnonzero(self.index.all_rows())]

    def who(self, row: int) -> Who:
        """What a row's corrections are filed under."""
        return self._who(row, self.index.read(row))

    def picture(self, row: int, number: int, size: Size) -> bytes:
        """A picture of a row's image. Raises SourceError, or Outdated where there is no such image."""
        with self._lock:
            self._check(row)
            sources = read_sources(self.index.read(row))
            folder = self.paths[self.index.file_of(row)].parent
        if not 0 <= number < len(sources):
            raise Outdated(f"row {row} has no image {number}")
        return self.thumbnails.make(sources[number], folder, size)

    def rows_of(self, view: View) -> list[int]:
        """All rows of a view, to be corrected at once."""
        return [int(row) for row in self._find(view).rows]

    def decide(
        self, rows: Iterable[int], action: Action, values: Mapping[str, str], seen: Mapping[int, int]
    ) -> list[int]:
        """Correct rows and write it down; which ones changed. `seen` has the versions that the page showed.

        Raises Outdated where a row is another by now; then nothing has changed.
        """
        chosen = list(dict.fromkeys(rows))
        if len(chosen) > MAX_AT_ONCE:
            raise UsageError(f"{len(chosen):,} rows are more than {MAX_AT_ONCE:,}", hint="narrow the filter")
        with self._lock:
            self.read_corrections()
            decided = []
            for row in chosen:
                self._check(row)
                if self.index.file_of(row) != 0:
                    raise UsageError(f"this row is only in {self.paths[1].name}", hint="review that file")
                who, state = self._state(row)
                if row in seen and seen[row] != state.version:
                    raise Outdated("this row was changed elsewhere meanwhile")
                decided.append((row, who, state, self._decide(row, state, action, values)))
            changed = list_changed([(who, state, what) for _, who, state, what in decided])
            if changed:
                self.corrections.append(changed)
                self.read_corrections()
            return [row for row, who, _, _ in decided if who in changed]

    def undo(self) -> int:
        """Take back the last thing that was decided, by whichever page; how many rows it was about."""
        with self._lock:
            self.read_corrections()
            back = self.corrections.last_edit()
            if back:
                self.corrections.append(back, is_undo=True)
                self.read_corrections()
            return len(back)

    def _decide(self, row: int, state: State, action: Action, values: Mapping[str, str]) -> tuple[RowAnswer, str]:
        if action == "text":
            return edit_text(state, values["text"])
        if action == "label":
            return set_label(state, values["label"])
        if action == "replace":
            return replace_words(state, values["old"], values["new"])
        if action == "right":
            partner = self._partner(row)
            if partner is None:
                raise UsageError("the other file has no answer for this row")
            return read_answer(partner), "right"
        return state.answer, action

    def _find(self, view: View) -> Found:
        """The rows of a view. What takes long is done without the lock: another page may go on meanwhile."""
        with self._lock:
            table = Snapshot(self.index, self.index.count)
            generation, mask = self.index.generation, self.index.all_rows()
            key = (view, generation, table.count, self.index.duplicates_known)
            if (known := self._views.find(key)) is not None:
                return known
        try:
            selection = select(parse_query(view.query), table)
            selection.groups["#files"] = mask
            rows = order(np.flatnonzero(selection.mask()), table, view.sort)
        except (OSError, ValueError, IndexError):
            if generation != self.index.generation:
                raise Outdated("the file was replaced meanwhile") from None
            raise
        found = Found(table, int(mask.sum()), rows.astype(np.int32), selection)
        self._views.keep(key, found)
        return found

    def _count(self, found: Found) -> dict[str, list[tuple[str, int]]]:
        facets = {
            name: count_values(found.table, name, found.selection.mask(without=name), MAX_VALUES) for name in CATEGORIES
        }
        if len(self.paths) > 1:
            mask = found.selection.mask()
            facets["is"] = [
                (name, int((found.table.has(name) & mask).sum())) for name in ("agree", "disagree", "missing")
            ]
        # A digit stands for the same label as long as the program runs.
        self._labels += [label for label, _ in facets["label"] if label not in self._labels]
        del self._labels[9:]
        return facets

    def _check(self, row: int) -> None:
        if not 0 <= row < self.index.count:
            raise Outdated(f"there is no row {row}")

    def _show(self, row: int, *, is_whole: bool = False) -> dict[str, Any]:
        values = self.index.read(row)
        state = self.corrections.states.get(self._who(row, values)) if self.index.file_of(row) == 0 else None
        shown = show_row(row, values, state, self._partner(row), is_whole=is_whole)
        return shown | {"file": self.index.file_of(row)}

    def _partner(self, row: int) -> dict[str, Any] | None:
        if len(self.paths) == 1:
            return None
        partner = int(self.index.partners()[row])
        return None if partner == NO_ROW else self.index.read(partner)

    def _who(self, row: int, values: Mapping[str, Any]) -> Who:
        return identify(values, self.index.line_of(row))

    def _state(self, row: int) -> tuple[Who, State]:
        values = self.index.read(row)
        who = self._who(row, values)
        return who, self.corrections.states.get(who) or State(read_answer(values), "")

    def _apply(self, rows: npt.NDArray[np.int64], states: Mapping[Who, State]) -> None:
        """Let those of the rows that were corrected be found by what they say now."""
        if not states or not len(rows):
            return
        by_hash = {hash(who): state for who, state in states.items()}
        hashes = self.index.identities()[rows]
        for row in rows[np.isin(hashes, np.fromiter(by_hash, np.int64, len(by_hash)))].tolist():
            if self.index.file_of(row) != 0:
                continue
            state = by_hash[int(self.index.identities()[row])]
            values = self.index.read(row)
            corrected = apply_state(values, state)
            summary = summarise(corrected, self.index.line_of(row))
            self.index.replace(row, summary, state.decision, is_edited=corrected is not values)

    def _compare_images(self) -> None:
        def tell(done: int, total: int) -> bool:
            self._compared = (done, total)
            return self._ending.is_set()

        found = find_duplicates(self.index, tell)
        if found is not None:
            self.index.note_duplicates(found)
