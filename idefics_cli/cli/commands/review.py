"""`idefics review`: look at rows, find, compare and correct them, in the browser."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..command import with_options
from ..declare import OUTPUT, action, flag
from ..options import OutputOptions
from ..settings import Settings

PANEL = "Review"


@with_options(only={OutputOptions: ("output", "quiet")})
def review(
    settings: Settings,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", show_default=False, help="A JSONL file of rows, also one still written."),
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", show_default=False, help="Another model's rows about the same items."),
    ] = None,
    port: Annotated[
        int | None, action("--port", panel=PANEL, help="The port of the page; any free one if not given.")
    ] = None,
    no_browser: Annotated[
        bool, flag("--no-browser", panel=PANEL, help="Print the address only, also on a terminal.")
    ] = False,
    html: Annotated[
        str | None,
        action("--html", panel=OUTPUT, help="Write the page to this file instead, with up to 2,000 rows in it."),
    ] = None,
    apply: Annotated[bool, action("--apply", panel=OUTPUT, help="Write the corrected rows; open no page.")] = False,
    apply_as: Annotated[
        Literal["rows", "sidecars", "examples"] | None,
        action(
            "--as",
            panel=OUTPUT,
            help="What --apply writes: rows (if not given), texts beside images, or accepted rows as shots.",
        ),
    ] = None,
) -> None:
    """Look at rows in the browser: find, compare and correct them.

    Corrections go to ROWS.review.jsonl; ROWS itself is never changed.
    """
    from ..review import Wanted, review_rows
    from ..row_files import keep_copy

    paths = tuple(keep_copy(name) for name in (rows, other) if name is not None)
    review_rows(Wanted(paths, port, no_browser, html, apply, apply_as), settings)
