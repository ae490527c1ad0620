"""Word-by-word comparison of two answers."""

from __future__ import annotations

import difflib
import re
from typing import Literal

MAX_WORDS = 400
"""Longer answers are compared as a whole: the time grows with the square."""
Side = Literal["both", "left", "right"]
_PIECES = re.compile(r"\s+|[^\W_]+|.", re.DOTALL)


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
