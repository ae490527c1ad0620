"""Applies corrections: writes corrected rows, texts beside images, or shots for prompts. The input is not changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import BadItem, NothingToDo, UsageError
from ..files import open_draft, write_lines
from ..images import is_url, name_source
from ..jsonl import dump_row, parse_line, read_lines
from ..results.sidecars import Sidecars
from ..values import Item
from .corrections import Corrections, State, apply_state, review_path
from .summary import identify, read_answer, read_sources
from .thumbnails import find_file

Kind = Literal["rows", "sidecars", "examples"]
ACCEPTED = ("accept", "left", "right")


@dataclass(slots=True)
class Corrected:
    """The outcome of applying corrections."""

    written: int = 0
    corrected: int = 0
    rejected: int = 0
    failed: int = 0


def target_path(rows: Path, kind: Kind) -> Path:
    """Where the result goes unless it is said: rows.corrected.jsonl or rows.examples.jsonl beside rows.jsonl."""
    review = review_path(rows).name
    return rows.with_name(review.replace(".review.", ".examples." if kind == "examples" else ".corrected."))


def apply_corrections(rows: Path, target: Path, kind: Kind) -> Corrected:
    """Write what the rows say after correction, without those that were rejected. Raises UsageError.

    A file is there whole or not at all; sidecars are, each.
    """
    corrections = Corrections(review_path(rows))
    if not corrections.read() and kind != "sidecars":
        raise NothingToDo(f"no row of {rows} has a decision", hint=f"review them first: idefics review {rows}")
    if os.path.realpath(target) in (os.path.realpath(rows), os.path.realpath(corrections.path)):
        raise UsageError(f"{target} is the input file", hint="give another --output")
    if kind == "sidecars":
        return _write_sidecars(rows, corrections)
    report = Corrected()
    try:
        with open_draft(target) as draft:
            write_lines(draft.file, _list_lines(rows, target, kind, corrections, report))
            if report.written == 0:
                raise NothingToDo("no row was accepted", hint="press `a` on rows to use as examples")
            draft.keep()
            os.close(draft.file)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}", hint="nothing was changed") from error
    return report


def _list_lines(rows: Path, target: Path, kind: Kind, corrections: Corrections, report: Corrected) -> Iterator[bytes]:
    for row, state in _read_rows(rows, corrections, report):
        if kind == "rows":
            line = dump_row(_mark(row, state))
        elif state is not None and state.decision in ACCEPTED:
            line = dump_row(_to_example(row, state, rows, target))
        else:
            continue
        report.written += 1
        yield f"{line}\n".encode()


def _read_rows(
    rows: Path, corrections: Corrections, report: Corrected
) -> Iterator[tuple[dict[str, Any], State | None]]:
    """The rows as they read after correction, without those that were rejected."""
    try:
        with rows.open("rb") as stream:
            number = 0
            for line_number, line in read_lines(stream):
                number += 1
                try:
                    row = parse_line(line)
                except BadItem as error:
                    raise UsageError(f"{rows} line {line_number}: {error}", hint="remove that line") from error
                state = corrections.states.get(identify(row, number))
                if state is not None and state.decision == "reject":
                    report.rejected += 1
                    continue
                report.corrected += state is not None and state.answer != read_answer(row)
                yield (row if state is None else apply_state(row, state)), state
    except OSError as error:
        raise UsageError(f"cannot read {rows}: {error.strerror}") from error


def _mark(row: dict[str, Any], state: State | None) -> dict[str, Any]:
    """The row with what was decided about it, if anything was."""
    return row | {"review": state.decision} if state is not None and state.decision else row


def _to_example(row: dict[str, Any], state: State, rows: Path, target: Path) -> dict[str, Any]:
    """A shot, its images named as seen from the file it is in."""
    images = []
    for source in read_sources(row):
        if not is_url(source) and source != "-":
            source = os.path.relpath(os.path.abspath(find_file(source, rows.parent)), target.parent)
        try:
            json.dumps(source, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{name_source(source)} has a name that an example cannot contain", hint="rename it as UTF-8"
            ) from None
        images.append(source)
    fields = row.get("fields")
    fields = dict(fields) if isinstance(fields, dict) else {}
    shown = {"image": images[0]} if len(images) == 1 else {"images": images}
    return shown | {"fields": fields, "answer": state.answer.shown}


def _write_sidecars(rows: Path, corrections: Corrections) -> Corrected:
    report, sidecars = Corrected(), Sidecars()
    texts: list[tuple[str, str]] = []
    items = []
    for row, _ in _read_rows(rows, corrections, report):
        if row.get("error") is not None:
            report.failed += 1
            continue
        sources = tuple(
            source if is_url(source) or source == "-" else str(find_file(source, rows.parent))
            for source in read_sources(row)
        )
        fields = row.get("fields")
        items.append(Item(str(row.get("id")), sources, tuple(fields.items()) if isinstance(fields, dict) else ()))
        texts.append((sources[0] if sources else "", read_answer(row).shown))
    for _ in sidecars.check(items):
        pass
    for source, text in texts:
        sidecars.write(source, text)
        report.written += 1
    return report
