"""`idefics batch`: many different questions, one item a line."""

from __future__ import annotations

from typing import Annotated

import typer

from ..command import with_options
from ..options import PANELS
from ..settings import Settings

_FOR_ONE_TASK = (
    "template",
    "examples",
    "shots",
    "recursive",
    "together",
    "files_from",
    "null",
    "format",
    "stream",
    "sidecar",
    "sidecar_name",
    "write_metadata",
    "also",
    "overwrite_foreign",
    *("table", "image_column", "id_column", "where"),
)


@with_options(*PANELS, without=_FOR_ONE_TASK)
def batch(
    settings: Settings,
    items: Annotated[
        str,
        typer.Argument(metavar="ITEMS.jsonl", show_default=False, help="One item a line, or - for standard input."),
    ],
) -> None:
    """Answer a file of items: each line has its own task or template, images, fields and decoding.

    Such as {"id": "7", "task": "vqa", "images": ["a.jpg"], "question": "What is this?"}.

    Paths are relative to the file.
    """
    from ..ask import ask, list_lines

    ask(list_lines(items, settings), settings)
