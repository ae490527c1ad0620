"""What a person looks for in rows, and which rows that is.

    red -car "wide field" /\\bdogs?\\b/       words, phrases and patterns; case never matters; `-` is not
    text:red                                in the answer alone, not in names and fields
    label:cat label:dog -task:vqa           one of these labels, not that task
    confidence:..0.5 length:200..           a range, either end left out
    is:failed -is:edited                    a property

Everything said must hold; values of one field are alternatives. Pure: what rows hold comes from a `Table`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

Mask = npt.NDArray[np.bool_]
Kind = Literal["words", "pattern", "value", "range", "property"]
CATEGORIES = ("label", "template", "task", "error", "finish", "warning", "decision", "model")
NUMBERS = ("confidence", "margin", "length", "seconds")
PROPERTIES = (*("failed", "edited", "reviewed", "repeated", "duplicate"), *("agree", "disagree", "missing"))
MAX_QUERY = 2000
MAX_PATTERN = 500
_TERM = re.compile(
    r"""(?P<not>-?)(?:(?P<field>[a-z]+):)?
    (?:"(?P<phrase>(?:[^"\\]|\\.)*)"|/(?P<pattern>(?:[^/\\]|\\.)+)/)(?=\s|$)
    |(?P<word>\S+)""",
    re.VERBOSE | re.DOTALL,
)
_RANGE = re.compile(r"(-?\d*\.?\d+)?\.\.(-?\d*\.?\d+)?")


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. `field` is what it is about; empty for the whole row."""

    kind: Kind
    value: str
    field: str = ""
    is_not: bool = False
    low: float = -np.inf
    high: float = np.inf


class Table(Protocol):
    """What a filter needs of rows. Every mask has one value for each row."""

    @property
    def count(self) -> int: ...

    def codes(self, name: str) -> npt.NDArray[np.int32]:
        """Which of `values` each row has."""

    def values(self, name: str) -> Sequence[str]:
        """The values of each code: none (""), one, or several, one a line, as warnings are."""

    def numbers(self, name: str) -> npt.NDArray[np.float32]:
        """NaN where a row has none."""

    def has(self, name: str) -> Mask: ...

    def find(self, words: str, *, in_text: bool) -> Mask: ...

    def match(self, pattern: str, *, in_text: bool) -> Mask:
        """Raises UsageError for a pattern that takes too long."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that satisfy each group of terms; a group is all alternatives of one field, or one other term."""

    count: int
    groups: dict[str, Mask]

    def mask(self, *, without: str | None = None) -> Mask:
        """The rows that satisfy all terms except those of one field: the counts beside its values are of these rows."""
        found = np.ones(self.count, np.bool_)
        for name, group in self.groups.items():
            if name != without:
                found &= group
        return found


def parse_query(text: str) -> tuple[Term, ...]:
    """The terms of a query. Raises UsageError, which says what to write instead."""
    if len(text) > MAX_QUERY:
        raise UsageError(f"the filter has more than {MAX_QUERY} characters", hint="say less")
    return tuple(_parse_term(match) for match in _TERM.finditer(text))


def select(terms: Sequence[Term], table: Table) -> Selection:
    """Which rows of a table satisfy the terms."""
    groups: dict[str, Mask] = {}
    for number, term in enumerate(terms):
        found = _find(term, table)
        if term.kind == "value" and not term.is_not:
            known = groups.get(term.field)
            groups[term.field] = found if known is None else known | found
        else:
            groups[f"#{number}"] = ~found if term.is_not else found
    return Selection(table.count, groups)


def order(rows: npt.NDArray[np.int64], table: Table, sort: str) -> npt.NDArray[np.int64]:
    """Rows sorted by a number or category, `-` before it for the largest first; those without one come last."""
    name = sort.removeprefix("-")
    if not name:
        return rows
    if name in NUMBERS:
        keys = table.numbers(name)[rows]
    elif name in CATEGORIES:
        values = table.values(name)
        ranks = np.full(len(values), np.nan, np.float32)
        filled = [code for code, value in enumerate(values) if value]
        ranks[sorted(filled, key=lambda code: values[code].lower())] = np.arange(len(filled))
        keys = ranks[table.codes(name)[rows]]
    else:
        raise UsageError(f"rows have no {name!r} to sort by", hint=f"known: {', '.join(NUMBERS + CATEGORIES)}")
    return rows[np.argsort(-keys if sort.startswith("-") else keys, kind="stable")]


def count_values(table: Table, name: str, mask: Mask, most: int) -> list[tuple[str, int]]:
    """How many of these rows have each value of a category, the most frequent first, at most `most`."""
    values = table.values(name)
    counts: dict[str, int] = {}
    numbers = np.bincount(table.codes(name)[mask], minlength=len(values))
    for code in np.flatnonzero(numbers).tolist():
        for value in values[code].split("\n") if code else ():
            counts[value] = counts.get(value, 0) + int(numbers[code])
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:most]


def _parse_term(match: re.Match[str]) -> Term:
    is_not, field = bool(match["not"]), match["field"] or ""
    if match["word"] is not None:
        word = match["word"]
        is_not = word.startswith("-") and len(word) > 1
        word = word.removeprefix("-") if is_not else word
        name, colon, rest = word.partition(":")
        is_field = bool(colon and rest) and name in (*CATEGORIES, *NUMBERS, "is", "text")
        field, word = (name, rest) if is_field else ("", word)
    else:
        word = re.sub(r"\\(.)", r"\1", match["phrase"] or "", flags=re.DOTALL)
        if field not in ("", "text", "is", *CATEGORIES, *NUMBERS):
            raise UsageError(f"there is no field {field!r}", hint=f"known: text, is, {', '.join(CATEGORIES)}")
    if match["pattern"] is not None:
        if field not in ("", "text"):
            raise UsageError(f"{field}: takes values, not patterns", hint="write text:/pattern/ or /pattern/")
        return Term("pattern", check_pattern(match["pattern"].replace(r"\/", "/")), field, is_not)
    if field in NUMBERS:
        bounds = _RANGE.fullmatch(word)
        if bounds is None:
            raise UsageError(f"{field}:{word} is not a range", hint=f"write {field}:0.2..0.8 or {field}:..0.5")
        low, high = (float(end) if end else None for end in bounds.groups())
        return Term(*("range", word, field, is_not), -np.inf if low is None else low, np.inf if high is None else high)
    if field == "is":
        if word not in PROPERTIES:
            raise UsageError(f"is:{word} is not known", hint=f"known: {', '.join(PROPERTIES)}")
        return Term("property", word, field, is_not)
    return Term("value" if field in CATEGORIES else "words", word, field, is_not)


def check_pattern(pattern: str) -> str:
    """The pattern, if it is valid. The caller bounds its running time."""
    if len(pattern) > MAX_PATTERN:
        raise UsageError(f"the pattern has more than {MAX_PATTERN} characters", hint="say less")
    if any(len(digits) > 3 for digits in re.findall(r"\{(\d+)|,(\d+)\}", pattern) for digits in digits):
        raise UsageError(f"/{pattern}/ repeats more than 999 times", hint="write + or *")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"/{pattern}/ is not a pattern: {error}", hint='quote words: "a+b"') from error
    return pattern


def _find(term: Term, table: Table) -> Mask:
    in_text = term.field == "text"
    if term.kind == "words":
        return table.find(term.value, in_text=in_text) if term.value else np.ones(table.count, np.bool_)
    if term.kind == "pattern":
        return table.match(term.value, in_text=in_text)
    if term.kind == "property":
        return table.has(term.value)
    if term.kind == "range":
        numbers = table.numbers(term.field)
        return np.asarray((numbers >= term.low) & (numbers <= term.high))
    values = table.values(term.field)
    wanted = np.fromiter((term.value in value.split("\n") for value in values), np.bool_, len(values))
    return np.asarray(wanted[table.codes(term.field)])
