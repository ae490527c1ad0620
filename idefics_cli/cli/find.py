"""What `idefics find` does: the filter of the review page, printing names for a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from ..config import user_cache
from ..errors import NothingToDo, UsageError
from ..review.filter import parse_query
from ..review.session import ReviewSession, View
from ..review.summary import read_sources
from .formats import refuse_tables
from .output import emit, emit_name
from .row_files import open_rows
from .settings import Settings


def find_rows(rows: str, query: str, sort: str, settings: Settings, *, end: str, opens: bool) -> None:
    """Print the matching rows, or show them in the browser. Raises NothingToDo if there are none."""
    refuse_tables(settings.output.format)
    as_rows = settings.output.format == "jsonl"
    if as_rows and end == "\0":
        raise UsageError("-0 is for names, and --format jsonl prints rows", hint="leave one of them out")
    if any((term.field, term.value) == ("is", "duplicate") for term in parse_query(query)):
        raise UsageError("is:duplicate looks at the images", hint=f"idefics review {rows} finds them")
    with ExitStack() as stack:
        path = stack.enter_context(open_rows(rows))
        session = ReviewSession((path,), user_cache())
        stack.callback(session.index.close)
        session.read_all()
        index = session.index
        found = session.rows_of(View(query, sort))
        if not found:
            raise NothingToDo(f"no row of {rows} matches {query!r}", hint="say less")
        if opens:
            from .review import serve_page  # which brings a server

            serve_page(session, settings.talk, query=query)
            return
        if as_rows:
            for row in found:
                emit(index.read_line(row).decode("utf-8", "replace").rstrip("\r"))
            return
        seen: set[int] = set()
        for name in (name for row in found for name in _list_names(index.read(row))):
            if (digest := hash(name)) not in seen:
                seen.add(digest)
                emit_name(name, end)


def _list_names(row: Mapping[str, Any]) -> Iterator[str]:
    """The names of a row's images; its id if they have none."""
    sources = [source for source in read_sources(row) if source[:5].lower() != "data:"]
    if sources:
        yield from sources
    elif isinstance(row.get("id"), str):
        yield row["id"]
