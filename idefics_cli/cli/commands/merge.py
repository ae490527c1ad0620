"""`idefics merge`: put the parts of a run together."""

from __future__ import annotations

from typing import Annotated

import typer

from ..command import with_options
from ..options import InputOptions, OutputOptions
from ..settings import Settings


@with_options(only={InputOptions: ("recursive", "files_from", "null"), OutputOptions: ("output", "quiet")})
def merge(
    settings: Settings,
    parts: Annotated[list[str], typer.Argument(metavar="PART…", show_default=False, help="JSONL files of rows.")],
) -> None:
    """Put the parts of a run together, in the order of its input, and say what is missing.

    Rows of --shard know their place; for others --files-from gives the order. The file is as a run without parts
    would have written it: that run, with the same --output, answers the rest.
    """
    from ..merge import merge_parts

    merge_parts(parts, settings)
