"""`--where "column = value"`: which records are wanted, by one cell each."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*(?P<column>[^=!<>]+?)\s*(?P<sign><=|>=|!=|==?|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_QUOTED = re.compile(r"""(?P<mark>["'])(?P<text>.*)(?P=mark)""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Condition:
    """A column, a comparison and a value as text."""

    column: str
    sign: str
    value: str
    is_quoted: bool = False

    def holds(self, cells: Mapping[str, Any]) -> bool:
        """Whether a record meets it. A missing cell meets none but `!=`."""
        cell = cells.get(self.column)
        if cell is None:
            return self.sign == "!="
        if isinstance(cell, bool):
            cell = "true" if cell else "false"
        if isinstance(cell, int | float):
            number = self._to_number()
            return self.sign == "!=" if number is None else _OPERATORS[self.sign](cell, number)
        text = cell if isinstance(cell, str) else str(cell)
        own, other = _parse(text), self._to_number()
        if own is not None and other is not None and self.sign not in ("=", "!="):
            return _OPERATORS[self.sign](own, other)  # a CSV has its numbers as texts
        return _OPERATORS[self.sign](text, self.value)

    def to_sql(self) -> str:
        """The condition in SQL."""
        column = self.column.replace("`", "")
        value = self.value if self._to_number() is not None else "'" + self.value.replace("'", "''") + "'"
        if self.value in ("true", "false") and not self.is_quoted:
            value = self.value
        return f"`{column}` {self.sign} {value}"

    def _to_number(self) -> float | int | None:
        return None if self.is_quoted else _parse(self.value)


def parse_condition(text: str) -> Condition:
    """Read `column = value`. Raises UsageError."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"--where {text!r} is not a condition", hint='write --where "column = value"')
    quoted = _QUOTED.fullmatch(match["value"])
    sign = "=" if match["sign"] == "==" else match["sign"]
    return Condition(match["column"], sign, quoted["text"] if quoted else match["value"], quoted is not None)


def hold(conditions: Iterable[Condition], cells: Mapping[str, Any]) -> bool:
    """Whether a record meets all conditions."""
    return all(one.holds(cells) for one in conditions)


def _parse(text: str) -> float | int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None
