"""Lines fitted to the width of a terminal: wrapped between words; tables that are too wide become lists."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from ..figures import align

_LEAST_COLUMNS = 20
_LEAST_TEXT = 20
"""A last column narrower than that is not worth breaking."""
# What stands between backticks is to be copied, so it stays whole.
_WORD = re.compile(r"\s*(?:`[^`]*`|\S)+")
_GAP = re.compile(r"(?:^|\S) {2,}(?=\S)")


def find_columns(stream: TextIO | None) -> int | None:
    """The width of a terminal; None if it is not a terminal or does not tell."""
    try:
        if stream is None or not stream.isatty():
            return None
        return count_columns(stream.fileno())
    except (OSError, ValueError):
        return None


def count_columns(file: int) -> int | None:
    """The width of the terminal of a descriptor, if it is one."""
    try:
        columns = os.get_terminal_size(file).columns
    except OSError:
        return None
    return columns if columns >= _LEAST_COLUMNS else None


def count_cells(text: str) -> int:
    """How many columns a text needs: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def fold(line: str, columns: int | None) -> str:
    """The line, wrapped between words if it is too long. A word that is longer than the line stays whole.

    The last of several columns is wrapped below its own beginning, everything else with two spaces of indent.
    """
    if columns is None or count_cells(line) <= columns:
        return line
    indent = max((gap.end() for gap in _GAP.finditer(line) if gap.end() <= columns - _LEAST_TEXT), default=2)
    lines: list[str] = []
    for word in _WORD.findall(line):
        if lines and count_cells(lines[-1] + word) <= columns:
            lines[-1] += word
        else:
            lines.append(" " * indent + word.lstrip() if lines else word)
    return "\n".join(lines)


def fit_table(rows: Sequence[Sequence[str]], columns: int | None, *, has_head: bool = False) -> list[str]:
    """Rows as columns if they fit, else each row as a list below its first cell."""
    lines = align(rows)
    if columns is None or max(map(count_cells, lines), default=0) <= columns:
        return lines
    before = align([row[:-1] for row in rows])
    if max(map(count_cells, before)) <= columns - _LEAST_TEXT:
        return [part for line in lines for part in fold(line, columns).split("\n")]
    head, *rest = rows if has_head else [[""] * len(rows[0]), *rows]
    piled = []
    for row in rest:
        piled.append(row[0])
        told = align([pair for pair in zip(head[1:], row[1:], strict=True) if pair[1]])
        piled += [part for line in told for part in fold(f"  {line}", columns).split("\n")]
    return piled
