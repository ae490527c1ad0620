"""A row as the cells of a table: each nested value gets its own column, named with dots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UsageError

CellKind = Literal["text", "integer", "number", "truth", "texts"]
MAX_COLUMNS = 2000
MAX_DEPTH = 4
_MAX_INTEGER = 2**63


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column by its name, and the type of all its cells."""

    name: str
    kind: CellKind = "text"

    def read(self, cells: Mapping[str, Any]) -> Any:
        """The cell of this column, converted to its type; None if a row has none."""
        value = cells.get(self.name)
        if value is None:
            return None
        if self.kind == "text" and not isinstance(value, str):
            return json.dumps(value, ensure_ascii=False)
        return float(value) if self.kind == "number" else value


def flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row by the names of their columns. Of scores, each label is a column with its probability."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if name == "scores" and isinstance(value, list):
            value = _key_by_label(value)
        for column, cell in _flatten(name, value, MAX_DEPTH):
            while column in cells:  # {"a.b": …, "a": {"b": …}}
                column += "_"
            cells[column] = cell
    return cells


def find_columns(rows: Iterable[Mapping[str, Any]]) -> tuple[TableColumn, ...]:
    """The columns of all rows, in the order of the rows' own keys. Raises UsageError if they are too many."""
    kinds: dict[str, CellKind | None] = {}
    for row in rows:
        for name, value in flatten(row).items():
            kinds[name] = _merge(kinds.get(name), value)
        if len(kinds) > MAX_COLUMNS:
            raise UsageError(
                f"the rows have more than {MAX_COLUMNS:,} columns", hint="choose some with --columns id,text"
            )
    heads = {name: place for place, name in reversed(list(enumerate(_head(name) for name in kinds)))}
    nested = {name.rpartition(".")[0] for name in kinds}
    names = [name for name, kind in kinds.items() if kind is not None or name not in nested]
    names.sort(key=lambda name: heads[_head(name)])
    return tuple(TableColumn(name, kinds[name] or "text") for name in names)


def choose_columns(columns: Sequence[TableColumn], wanted: Sequence[str]) -> tuple[TableColumn, ...]:
    """The columns by name, in this order; `data` means all columns in it. Raises UsageError for unknown ones."""
    chosen: dict[str, TableColumn] = {}
    for name in wanted:
        found = [one for one in columns if one.name == name or one.name.startswith(f"{name}.")]
        if not found:
            known = ", ".join(one.name for one in columns[:30])
            raise UsageError(f"the rows have no column {name!r}", hint=f"known: {known}")
        chosen |= {one.name: one for one in found}
    return tuple(chosen.values())


def _flatten(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and depth:
        for key, inner in value.items():
            yield from _flatten(f"{name}.{key}", inner, depth - 1)
    elif isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
        yield name, json.dumps(value, ensure_ascii=False)
    else:
        yield name, value


def _key_by_label(scores: list[Any]) -> Any:
    """The probabilities by label; unchanged if they are in another program's form."""
    try:
        return {str(score["label"]): score["probability"] for score in scores}
    except (KeyError, TypeError):
        return scores


def _merge(kind: CellKind | None, value: Any) -> CellKind | None:
    """The type of a column after one more cell."""
    if value is None:
        return kind
    found = _kind_of(value)
    if kind is None or kind == found:
        return found
    return "number" if {kind, found} == {"integer", "number"} else "text"


def _kind_of(value: Any) -> CellKind:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return "integer" if -_MAX_INTEGER <= value < _MAX_INTEGER else "text"
    if isinstance(value, float):
        return "number"
    return "texts" if isinstance(value, list) else "text"


def _head(name: str) -> str:
    return name.partition(".")[0]
