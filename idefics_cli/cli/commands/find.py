"""`idefics find`: the rows that match a query."""

from __future__ import annotations

from typing import Annotated

import typer

from ..command import with_options
from ..declare import OUTPUT, action
from ..options import OutputOptions
from ..settings import Settings


@with_options(only={OutputOptions: ("format",)})
def find(
    settings: Settings,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", show_default=False, help="A JSONL file of rows, or - for standard input."),
    ],
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY…", show_default=False, help="As in review: 'red -car /dogs?/ label:cat is:failed'."
        ),
    ],
    sort: Annotated[
        str | None,
        action("--sort", panel=OUTPUT, help="By confidence, length, label …; -confidence puts the largest first."),
    ] = None,
    opens: Annotated[
        bool, action("--open", panel=OUTPUT, help="Show the images in the browser, on the review page.")
    ] = False,
    null: Annotated[
        bool, action("--null", "-0", panel=OUTPUT, help="End each name with NUL, as xargs -0 reads it.")
    ] = False,
) -> None:
    """Print the images whose rows match a query, one name a line; with --format jsonl the rows.

    Words, "phrases" and /patterns/ must all be there, -words must not; a label:, task: or is: narrows it.
    """
    from ..find import find_rows

    find_rows(rows, " ".join(query), sort or "", settings, end="\0" if null else "\n", opens=opens)
