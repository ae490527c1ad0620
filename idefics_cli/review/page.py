"""Rows as the page shows them: short, with what is known of each image, and the other file's answer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

from ..images import name_source
from ..rows import read_confidence
from .corrections import State
from .summary import RowAnswer, read_answer, read_images

SHOWN_CHARACTERS = 400
SHOWN_SCORES = 5
MAX_WORDS = 400
"""Longer answers are compared as a whole, not word by word: the time grows with the square."""
Side = Literal["both", "left", "right"]
_PIECES = re.compile(r"\s+|[^\W_]+|.", re.DOTALL)


def show_row(
    number: int,
    row: Mapping[str, Any],
    state: State | None,
    other: Mapping[str, Any] | None = None,
    *,
    is_whole: bool = False,
) -> dict[str, Any]:
    """One row for the page; long texts are cut unless it `is_whole`. `other` is the row of the other file."""
    before = read_answer(row)
    answer = before if state is None else state.answer
    shown = show_answer(row, answer, is_whole=is_whole)
    fields = row.get("fields")
    found: dict[str, Any] = {
        "row": number,
        "id": _cut(str(row.get("id", "")), 300),
        "images": [name_source(source)[-200:] for source in read_images(row)],
        "task": row.get("task"),
        "template": row.get("template"),
        "fields": {
            str(key): _cut(str(value), 1000) for key, value in (fields.items() if isinstance(fields, dict) else ())
        },
        "warnings": row["warnings"] if isinstance(row.get("warnings"), list) else [],
        "finish": row.get("finish_reason"),
        "decision": "" if state is None else state.decision,
        "version": 0 if state is None else state.version,
        "before": _cut(before.shown, SHOWN_CHARACTERS) if before != answer else None,
        **shown,
    }
    if is_whole:
        found["was"] = {"text": before.shown, "label": before.label}
    if other is not None:
        found["other"] = show_answer(other, read_answer(other), is_whole=is_whole)
        found["diff"] = diff_words(found["text"], found["other"]["text"])
    return found


def show_answer(row: Mapping[str, Any], answer: RowAnswer, *, is_whole: bool) -> dict[str, Any]:
    """A row's answer and confidence, or its error."""
    confidence, margin = read_confidence(row)
    scores, error = row.get("scores"), row.get("error")
    text = answer.shown
    is_corrected = answer != read_answer(row)
    code = error.get("code") if isinstance(error, dict) else error
    said = error.get("message", "") if isinstance(error, dict) else ""
    return {
        "text": text if is_whole else _cut(text, SHOWN_CHARACTERS),
        "length": len(text),
        "label": answer.label,
        "scores": [
            {"label": str(one.get("label")), "probability": one["probability"]}
            for one in (scores[:SHOWN_SCORES] if isinstance(scores, list) else ())
            if isinstance(one, dict) and isinstance(one.get("probability"), (int, float))
        ],
        "confidence": None if confidence != confidence else round(confidence, 4),
        "margin": None if margin != margin else round(margin, 4),
        "error": None if error is None or is_corrected else {"code": str(code), "message": str(said)},
    }


def diff_words(left: str, right: str) -> list[tuple[Side, str]]:
    """The pieces of both in reading order; all that are not `right` make up the left one, and vice versa."""
    if left == right:
        return [("both", left)] if left else []
    ours, theirs = _PIECES.findall(left), _PIECES.findall(right)
    if max(len(ours), len(theirs)) > 2 * MAX_WORDS:
        return [piece for piece in (("left", left), ("right", right)) if piece[1]]
    found: list[tuple[Side, str]] = []
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        if kind == "equal":
            found.append(("both", "".join(ours[start:end])))
            continue
        if start < end:
            found.append(("left", "".join(ours[start:end])))
        if other_start < other_end:
            found.append(("right", "".join(theirs[other_start:other_end])))
    return found


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
