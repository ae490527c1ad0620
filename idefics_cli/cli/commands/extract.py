"""`idefics extract`: fill in the fields of a schema from each image."""

from __future__ import annotations

from typing import Annotated

from ...errors import UsageError
from ..command import with_options
from ..declare import PROMPT, option
from ..options import PANELS, Images
from ..settings import Settings


@with_options(*PANELS, without=("regex", "choices", "stream", "full_text", "stop"))
def extract(
    settings: Settings,
    images: Images = None,
    fields: Annotated[
        str | None,
        option(
            "--fields",
            panel=PROMPT,
            metavar="NAMES",
            help='The fields wanted, in short: "vendor, date:date, total:number".',
        ),
    ] = None,
) -> None:
    """Fill in the fields of a JSON schema from each image: the answer always parses."""
    from ...prompts.answer_format import parse_fields
    from ..ask import Question, ask, list_asked

    if (fields is None) == (settings.prompt.schema is None):
        raise UsageError(
            "extract needs either --schema or --fields",
            hint='write --fields "vendor, date:date, total:number" or --schema receipt.json',
        )
    wanted = None if fields is None else parse_fields(fields)
    ask(list_asked(images or [], Question("extract", answer_format=wanted), settings), settings)
