"""What `idefics convert` does, and how a run ends whose results are to be a table."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from ..convert.conversion import FORMS, FormName, check_form, convert
from ..errors import UsageError
from .output import tell_failure
from .settings import Settings

_COPY_BYTES = 1 << 20


def convert_rows(rows: str, form: FormName, columns: str | None, settings: Settings) -> None:
    """Write rows in a form. Raises typer.Exit(1) when some were left out."""
    wanted = [name.strip() for name in columns.split(",") if name.strip()] if columns is not None else []
    options = settings.output
    target = _choose_target(rows, form, options.output)
    if target.exists() and os.path.exists(rows) and os.path.samefile(rows, target):
        raise UsageError(f"{target} is the file of rows itself", hint="name another with --output")
    check_form(form, target, is_replaced=options.existing == "overwrite")
    with open_rows(rows) as path:
        write_table(path, form, target, wanted, settings)


def write_table(
    rows: Path,
    form: FormName,
    target: Path,
    columns: list[str],
    settings: Settings,
    *,
    counts_failed: bool = True,
) -> None:
    """Make rows into a table and say so. Raises typer.Exit(1) when some were left out."""
    try:
        done = convert(rows, form, target, columns=columns, limits=settings.limits, tell=tell_failure)
    except BrokenPipeError as error:
        raise SystemExit(0) from error
    except OSError as error:
        raise UsageError(
            f"cannot write {target}: {error.strerror}", hint="make room, or name another place"
        ) from error
    left_out = f", {done.left_out:,} left out" if done.left_out else ""
    settings.talk.note(f"{done.written:,} rows in {target}{left_out}")
    if done.left_out and counts_failed:
        raise typer.Exit(1)


def _choose_target(rows: str, form: FormName, output: str | None) -> Path:
    if output == "-":
        return Path("/dev/stdout")
    if output is not None:
        return Path(output)
    if rows == "-":
        raise UsageError(
            "rows from standard input need a name", hint=f"add --output rows{FORMS[form].suffix}"
        )
    if form == "jsonl":
        raise UsageError("flat rows need another name", hint="add --output flat.jsonl")
    return Path(rows).with_suffix(FORMS[form].suffix)


@contextmanager
def open_rows(rows: str) -> Iterator[Path]:
    """The file of rows; what comes from standard input is put into one, because it is read twice."""
    if rows != "-":
        if not Path(rows).is_file():
            raise UsageError(f"{rows} is not a file of rows", hint="make one with --output rows.jsonl")
        yield Path(rows)
        return
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed", hint="pipe rows into it")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        with open(path, "wb") as copy:
            while block := sys.stdin.buffer.read(_COPY_BYTES):
                copy.write(block)
        yield path
