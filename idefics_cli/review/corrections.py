"""Decisions about rows: appended to one file beside them, and read again whenever the rows are opened.

The latest entry about a row counts. Several programs may append to the same file; each reads what the others wrote.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadItem, UsageError
from ..files import lock, write_all
from ..jsonl import dump_row, parse_line
from .summary import RowAnswer, read_answer

DECISIONS = ("edit", "accept", "reject", "left", "right")
LOCK_SECONDS = 10.0
Who = tuple[str, str]
"""The id and key of a row."""


class State(NamedTuple):
    """What a row says now, and the decision about it: "" for none."""

    answer: RowAnswer
    decision: str
    version: int = 0
    """How many entries there are about it, so that a page knows when its own is old."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry."""

    who: Who
    before: RowAnswer
    after: RowAnswer
    decision: str
    time: str
    is_undo: bool = False

    def to_row(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.who[0],
            "key": self.who[1],
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "decision": self.decision or None,
            "time": self.time,
        }
        return row | ({"undo": True} if self.is_undo else {})


def parse_change(row: Mapping[str, Any]) -> Change | None:
    """The entry in a row; None if it is none."""
    before, after, decision = row.get("before"), row.get("after"), row.get("decision") or ""
    if not (isinstance(before, dict) and isinstance(after, dict) and decision in ("", *DECISIONS)):
        return None
    who = str(row.get("id")), str(row.get("key") or "")
    return Change(
        *(who, read_answer(before), read_answer(after), decision, str(row.get("time"))), bool(row.get("undo"))
    )


def apply_state(row: dict[str, Any], state: State) -> dict[str, Any]:
    """The row after correction, unchanged if nothing was decided. A person's answer is no longer a failure."""
    if state.answer == read_answer(row):
        return row
    return row | {"text": state.answer.text, "label": state.answer.label, "error": None}


def review_path(rows: Path) -> Path:
    """Where the corrections of a file of rows are: rows.review.jsonl beside rows.jsonl."""
    return rows.with_name(f"{rows.stem if rows.suffix == '.jsonl' else rows.name}.review.jsonl")


@dataclass(slots=True)
class Corrections:
    """The entries of one file. Not thread-safe."""

    path: Path
    states: dict[Who, State] = field(default_factory=dict)
    _history: list[dict[Who, tuple[State, State]]] = field(default_factory=list)
    _end: int = 0

    def read(self) -> dict[Who, State]:
        """Read what was appended, by any program: the rows it is about, and their states."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._end:
                    raise UsageError(f"{self.path} is shorter than before", hint="start `idefics review` again")
                file.seek(self._end)
                data = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from error
        data = data[: data.rfind(b"\n") + 1]
        self._end += len(data)
        return self._take(change for line in data.split(b"\n") if (change := _read_change(line)) is not None)

    def append(self, decided: Mapping[Who, tuple[State, RowAnswer, str]], *, is_undo: bool = False) -> None:
        """Write decisions about rows at once: the former state of each, the new one, the decision."""
        now = datetime.now(UTC).isoformat()
        lines = [
            dump_row(Change(who, state.answer, after, decision, now, is_undo).to_row())
            for who, (state, after, decision) in decided.items()
        ]
        with self._locked() as file:
            size = os.fstat(file).st_size
            is_torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            write_all(file, "".join(("\n" if is_torn else "", *(f"{line}\n" for line in lines))).encode())
            os.fsync(file)

    def last_edit(self) -> dict[Who, tuple[State, RowAnswer, str]]:
        """The reverse of the last decision; empty if there is none."""
        while self._history:
            latest = self._history[-1]
            back = {
                who: (self.states[who], before.answer, before.decision)
                for who, (before, after) in latest.items()
                if self.states[who].version == after.version
            }
            if back:
                return back
            self._history.pop()
        return {}

    def _take(self, changes: Iterator[Change]) -> dict[Who, State]:
        found: dict[Who, State] = {}
        for (_, is_undo), group in groupby(changes, key=lambda change: (change.time, change.is_undo)):
            step: dict[Who, tuple[State, State]] = {}
            for change in group:
                known = self.states.get(change.who, State(change.before, ""))
                after = State(change.after, change.decision, known.version + 1)
                step.setdefault(change.who, (known, after))
                found[change.who] = self.states[change.who] = after
            if is_undo:
                if self._history:
                    self._reset_versions(self._history.pop(), step)
            else:
                self._history.append(step)
        return found

    def _reset_versions(
        self, undone: Mapping[Who, tuple[State, State]], step: Mapping[Who, tuple[State, State]]
    ) -> None:
        """An earlier decision becomes the latest again, and can be undone in turn."""
        for who in undone:
            if who not in step:
                continue
            for earlier in reversed(self._history):
                if who in earlier:
                    earlier[who] = (earlier[who][0], step[who][1])
                    break

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}", hint="nothing was changed") from error
        try:
            until = time.monotonic() + LOCK_SECONDS
            while not lock(file):
                if time.monotonic() > until:
                    raise UsageError(f"another program is writing {self.path}", hint="try again")
                time.sleep(0.02)
            yield file
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}", hint="make room") from error
        finally:
            os.close(file)


def _read_change(line: bytes) -> Change | None:
    if not line.strip():
        return None
    try:
        return parse_change(parse_line(line))
    except BadItem:  # the end of a line that a crash cut off
        return None


def edit_text(state: State, text: str) -> tuple[RowAnswer, str]:
    return RowAnswer(text, state.answer.label), "edit"


def set_label(state: State, label: str) -> tuple[RowAnswer, str]:
    """A new label also replaces the text of a row whose text is its label."""
    says_label = state.answer.text is None or state.answer.text == state.answer.label
    return RowAnswer(label if says_label else state.answer.text, label), "edit"


def replace_words(state: State, old: str, new: str) -> tuple[RowAnswer, str]:
    return RowAnswer(state.answer.text and state.answer.text.replace(old, new), state.answer.label), "edit"


def list_changed(decided: Sequence[tuple[Who, State, tuple[RowAnswer, str]]]) -> dict[Who, Any]:
    """The decisions that change something."""
    return {
        who: (state, answer, decision)
        for who, state, (answer, decision) in decided
        if answer != state.answer or (decision != state.decision and decision != "edit")
    }
