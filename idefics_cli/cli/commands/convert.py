"""`idefics convert`: rows that were made earlier, in the forms that other programs read."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..command import with_options
from ..declare import OUTPUT, action, option
from ..options import InputOptions, OutputOptions
from ..settings import Settings


@with_options(only={InputOptions: ("timeout", "no_private_addresses"), OutputOptions: ("output", "existing", "quiet")})
def convert(
    settings: Settings,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", show_default=False, help="A JSONL file of rows, or - for standard input."),
    ],
    to: Annotated[
        Literal["csv", "parquet", "imagefolder", "jsonl", "xmp", "exiftool", "webdataset"],
        action(
            "--to",
            panel=OUTPUT,
            help="For spreadsheets, data frames, training (two ways), as flat JSON lines, for photo programs.",
        ),
    ],
    columns: Annotated[
        str | None,
        option(
            "--columns",
            panel=OUTPUT,
            metavar="A,B,C",
            help="These columns only, in this order; data means all in it.",
        ),
    ] = None,
) -> None:
    """Write rows as CSV, Parquet, a folder or shard of images to train from, flat JSON lines, or metadata of photos.

    What is nested gets a column for each value (data.colour, scores.cat). Without --output it is written beside ROWS.
    """
    from ..convert import convert_rows

    convert_rows(rows, to, columns, settings)
