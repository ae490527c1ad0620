"""What `idefics merge` does: one file of the parts, and a line for each problem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from ..errors import NothingToDo, UsageError
from ..images import is_url
from ..results.merge import Merged, merge
from .inputs import list_sources
from .output import say
from .row_files import open_files
from .settings import Settings


def merge_parts(parts: Sequence[str], settings: Settings) -> None:
    """Merge the parts. Raises typer.Exit(1) if something is missing, or failed."""
    target = settings.output.output
    if target is None or target == "-":
        raise UsageError("merge writes a file", hint="name it with --output all.jsonl")
    listed = list(list_sources((), settings.input)) if settings.input.files_from is not None else None
    if is_url(target):
        raise UsageError("merge writes a file here", hint="`idefics convert` writes tables to a bucket")
    with open_files(list(dict.fromkeys(parts))) as paths:
        report = merge(list(dict.fromkeys(paths)), Path(target), listed)
    if report.written == 0:
        raise NothingToDo("there is no row in these parts")
    summary = f"{report.written:,} rows of {len(paths)} files in {target}"
    if report.failed:
        summary += f", {report.failed:,} of them failed"
    settings.talk.note(summary)
    for line in _describe(report):
        settings.talk.note(line)
    if report.missing:
        say(_describe_missing(report))
    if report.missing or report.failed:
        raise typer.Exit(1)


def _describe(report: Merged) -> list[str]:
    lines = []
    if report.duplicates:
        lines.append(f"{report.duplicates:,} rows are duplicates; one of each is kept, if possible without an error")
    if report.unlisted:
        lines.append(f"{report.unlisted:,} rows are about images that are not in the list; they come last")
    if not report.have_places:
        lines.append("not all rows say their place (rows of --shard do); add --files-from LIST to find missing rows")
    return lines


def _describe_missing(report: Merged) -> str:
    are = "item has no row" if report.missing == 1 else "items have no row"
    first = "it is" if report.missing == 1 else "the first is"
    line = f"{report.missing:,} {are}; {first} {report.first_missing}"
    if report.lacking:
        parts = "part" if len(report.lacking) == 1 else "parts"
        line += f"; run {parts} {', '.join(report.lacking)} again"
    return line
