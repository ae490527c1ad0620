"""What `idefics convert` does, and how the table of a run is written at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import typer

from ..convert.conversion import FORMS, FormName
from ..convert.target import check_table, write_table
from ..errors import UsageError
from ..images import name_source
from ..results.objects import is_bucket
from .formats import find_format
from .output import Output, tell_failure
from .row_files import open_rows
from .settings import Settings
from .targets import have_rows


def convert_rows(rows: str, form: FormName, columns: str | None, settings: Settings) -> None:
    """Write rows in a form. Raises typer.Exit(1) if some were left out."""
    wanted = [name.strip() for name in columns.split(",") if name.strip()] if columns is not None else []
    options = settings.output
    target = _choose_target(rows, form, options.output)
    if target == rows or (os.path.exists(target) and os.path.exists(rows) and os.path.samefile(rows, target)):
        raise UsageError(f"{name_source(target)} is the file of rows itself", hint="name another with --output")
    check_table(form, target, is_replaced=options.existing == "overwrite")
    with open_rows(rows) as path:
        left_out = _write_table(path, form, target, wanted, settings)
    if left_out:
        raise typer.Exit(1)


def make_tables(others: list[tuple[FormName, str]], output: Output, settings: Settings, *, is_whole: bool) -> None:
    """Write the table of a run, if it has one, and its --also tables, once all items have rows."""
    form = find_format(settings.output.format, settings.output.output)
    rows, tables = output.path, list(others)
    if output.table is not None and form is not None and form != "text":
        tables.insert(0, (form, output.table))
    if rows is None or not rows.exists():
        return
    if is_whole:
        for name, table in tables:
            _write_table(rows, name, table, [], settings, tell=lambda line, why: None)
    elif output.table is not None:
        settings.talk.note(
            f"{name_source(output.table)} is written when all items are answered; the rows so far are in {output.name}"
        )


def choose_forms(output: Output, settings: Settings) -> list[tuple[FormName, str]]:
    """The --also tables, each with its form. Raises UsageError for one that could not be written."""
    chosen: list[tuple[FormName, str]] = []
    for name in settings.output.also or ():
        form = "imagefolder" if name.endswith("/") else find_format(None, name)
        if form is None or form == "text":
            raise UsageError(f"--also {name} is no table by its name", hint="name a .csv, a .parquet or a folder/")
        if output.path is None or not output.format.traits.can_resume:
            raise UsageError("--also makes tables of rows that are kept", hint="add --output rows.jsonl")
        is_replaced = settings.output.existing == "overwrite" or have_rows(output.url or str(output.path))
        check_table(form, name, is_replaced=is_replaced)
        chosen.append((form, name))
    return chosen


def _write_table(
    rows: Path,
    form: FormName,
    target: str,
    columns: list[str],
    settings: Settings,
    *,
    tell: Callable[[str, str], None] = tell_failure,
) -> int:
    """Convert rows to a table and report it; returns how many were left out."""
    try:
        done = write_table(rows, form, target, columns=columns, limits=settings.limits, tell=tell)
    except BrokenPipeError as error:
        raise SystemExit(0) from error
    except OSError as error:
        raise UsageError(
            f"cannot write {name_source(target)}: {error.strerror}", hint="make room, or name another place"
        ) from error
    left_out = f", {done.left_out:,} left out" if done.left_out else ""
    rows_written = "1 row" if done.written == 1 else f"{done.written:,} rows"
    settings.talk.note(f"{rows_written} in {name_source(target)}{left_out}")
    return done.left_out


def _choose_target(rows: str, form: FormName, output: str | None) -> str:
    if output == "-":
        return "/dev/stdout"
    if output is not None:
        return output
    if rows == "-":
        raise UsageError("rows from standard input need a name", hint=f"add --output rows{FORMS[form].suffix}")
    if form == "jsonl":
        raise UsageError("flat rows need another name", hint="add --output flat.jsonl")
    if is_bucket(rows):
        return f"{rows.rstrip('/').removesuffix('.jsonl')}{FORMS[form].suffix}"
    return str(Path(rows).with_suffix(FORMS[form].suffix))
