"""Output formats: one class and one row of a table each. A format turns results into lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import UsageError
from ..jsonl import dump_row
from ..rows import Result
from .output import FormatTraits, ResultFormat, display_name, drop_controls, one_line

FormatName = Literal["text", "jsonl", "csv", "parquet", "imagefolder"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What decides the layout of a command's results for people."""

    is_single: bool = False
    """One row only: its text stands alone."""
    has_questions: bool = False
    """Several questions: a column says which one."""
    top: int | None = None
    """How many labels are shown with their probabilities, if any."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """For people: one text alone, or `source<TAB>text` lines."""

    layout: Layout
    traits: ClassVar = FormatTraits(streams=True)

    def write(self, result: Result) -> Sequence[str]:
        layout = self.layout
        if result.error is not None:
            return ()
        lines = [(result.text or "") if result.data is None else _compact(result.data)]
        if layout.top is not None and result.scores:
            lines = [f"{one_line(score.label)}\t{score.probability:.4f}" for score in result.scores]
        if layout.is_single:
            return [drop_controls(line) for line in lines]
        columns = [one_line(display_name(result.images) or result.id)]
        if layout.has_questions:
            columns.append(one_line(result.fields.get("question", "")))
        if layout.top is None:
            lines = [one_line(line) for line in lines]
        return ["\t".join((*columns, line)) for line in lines]


@dataclass(frozen=True, slots=True)
class JsonlFormat:
    """For programs: a row of JSON a line, failed ones included."""

    layout: Layout
    traits: ClassVar = FormatTraits(can_resume=True)

    def write(self, result: Result) -> Sequence[str]:
        return [dump_row(result.to_row())]


@dataclass(frozen=True, slots=True)
class TableFormat(JsonlFormat):
    """For other programs: the rows as they come, which `convert` turns into a table when the run ends."""

    traits: ClassVar = FormatTraits(can_resume=True, is_table=True)


FORMATS: dict[FormatName, type[ResultFormat]] = {
    "text": TextFormat,
    "jsonl": JsonlFormat,
    "csv": TableFormat,
    "parquet": TableFormat,
    "imagefolder": TableFormat,
}


TABLES: dict[str, FormatName] = {".csv": "csv", ".parquet": "parquet"}
"""Formats of files that are known by their suffix."""


def find_format(name: FormatName | None, output: str | None) -> FormatName | None:
    """The chosen format: by its name, or by that of the file."""
    return name or (TABLES.get(Path(output).suffix.lower()) if output is not None else None)


def refuse_tables(name: FormatName | None) -> None:
    """Raise UsageError for formats of runs in a command that is no run."""
    if name is not None and FORMATS[name].traits.is_table:
        raise UsageError(f"--format {name} is for answers about images", hint="choose text or jsonl")


def _compact(data: Any) -> str:
    """A parsed answer for people: text as it is, everything else as JSON on one line."""
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
