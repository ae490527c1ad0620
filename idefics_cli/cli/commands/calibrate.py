"""`idefics calibrate`: calibrate the probabilities of labels."""

from __future__ import annotations

from typing import Annotated

import typer

from ..command import with_options
from ..declare import option
from ..options import OutputOptions
from ..settings import Settings


@with_options(only={OutputOptions: ("output", "quiet")})
def calibrate(
    settings: Settings,
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", show_default=False, help="Rows of classify or rate, with all scores."),
    ],
    references: Annotated[
        str | None,
        option(
            "--references",
            panel="Measuring",
            metavar="FILE",
            help="What is right, by id or image: JSONL, CSV, or ROWS.review.jsonl, which is used if not given.",
        ),
    ] = None,
) -> None:
    """Fit a temperature on ranked rows whose right labels are known, for --calibration of later runs.

    It is written to ROWS.calibration.json, or where --output says.
    """
    from pathlib import Path

    from ..calibrate import calibrate_rows
    from ..row_files import open_files

    with open_files([rows]) as (path,):
        calibrate_rows(rows, path, None if references is None else Path(references), settings)
