"""Converts a file of rows to another form, completely or not at all. Memory does not grow with the rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from ..errors import BadItem, ItemError, UsageError
from ..files import is_own_stream, open_draft, open_folder_draft
from ..images import Limits
from ..jsonl import parse_line, read_lines
from .columns import choose_columns, find_columns

FormName = Literal["csv", "parquet", "imagefolder", "jsonl", "xmp", "exiftool", "webdataset"]


class RowTable(Protocol):
    """Writes rows in a form."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises ItemError for a row that this form cannot hold."""

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Form:
    """One row of the table of forms: its class, imported only when the form is used."""

    place: str
    suffix: str
    needs: str | None = None
    """A library that the plain installation does not have."""
    is_folder: bool = False
    has_images: bool = False
    """Whether images are copied into it."""


FORMS: dict[FormName, Form] = {
    "csv": Form("lines:CsvTable", ".csv"),
    "parquet": Form("parquet:ParquetTable", ".parquet", needs="pyarrow"),
    "imagefolder": Form("samples:ImageFolder", "", is_folder=True, has_images=True),
    "jsonl": Form("lines:JsonlTable", ".jsonl"),
    "xmp": Form("photo_metadata:XmpFolder", "", is_folder=True),
    "exiftool": Form("photo_metadata:ExiftoolList", ".json"),
    "webdataset": Form("samples:WebdatasetTar", ".tar", has_images=True),
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """The outcome: rows written, and left out."""

    written: int
    left_out: int


def check_form(name: FormName, target: Path, *, is_replaced: bool) -> None:
    """Raise UsageError if rows cannot be written in this form, there."""
    form = FORMS[name]
    check_library(name)
    if target.name in ("", ".."):
        raise UsageError(f"{target} is not a file name", hint="name a file, or a folder to be made")
    if is_own_stream(target) and not form.is_folder:
        return
    if not target.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", hint="make it first")
    if not os.path.lexists(target):
        return
    if target.is_dir() != form.is_folder:
        raise UsageError(f"{target} is {'a' if target.is_dir() else 'no'} folder", hint="name another place")
    if form.is_folder and (others := set(os.listdir(target)) - {"metadata.jsonl", "images"}):
        raise UsageError(f"{target} has other files in it ({min(others)})", hint="name a new folder")
    if not is_replaced and not (form.is_folder and not os.listdir(target)):
        raise UsageError(f"{target} exists", hint="name another, or replace it with --existing overwrite")


def check_library(name: FormName) -> None:
    """Raise UsageError if the library of this form is not installed."""
    needs = FORMS[name].needs
    if needs is not None and find_spec(needs) is None:
        raise UsageError(f"{name} needs {needs}", hint="pip install 'idefics-cli[tables]'")


def convert(
    rows: Path,
    name: FormName,
    target: Path,
    *,
    columns: Sequence[str] = (),
    limits: Limits | None = None,
    tell: Callable[[str, str], None],
) -> Conversion:
    """Write the rows of a file in a form, replacing the target. Rows left out are reported, with their line."""
    form = FORMS[name]
    found = find_columns(row for _, row in _read(rows, lambda line, why: None))
    found = choose_columns(found, columns) if columns else found
    module, _, kind = form.place.partition(":")
    make = getattr(import_module(f".{module}", __package__), kind)
    written = left_out = 0

    def leave_out(line: str, why: str) -> None:
        nonlocal left_out
        left_out += 1
        tell(line, why)

    with open_folder_draft(target) if form.is_folder else _open_file(target) as place:
        table: RowTable = make(place, found, *((limits or Limits(),) if form.has_images else ()))
        for line, row in _read(rows, leave_out):
            try:
                table.write(row)
                written += 1
            except ItemError as error:
                leave_out(line, str(error))
        table.finish()
    return Conversion(written, left_out)


def _read(rows: Path, tell: Callable[[str, str], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(rows, "rb") as stream:
        for number, line in read_lines(stream):
            name = f"{rows.name} line {number}"
            try:
                yield name, parse_line(line)
            except BadItem as error:
                tell(name, str(error))


@contextmanager
def _open_file(target: Path) -> Iterator[IO[bytes]]:
    if is_own_stream(target):
        with open(target, "wb") as stream:
            yield stream
        return
    with open_draft(target) as draft:
        with open(draft.file, "wb", closefd=False) as stream:
            yield stream
        draft.keep()
        os.close(draft.file)
