"""`idefics write`: text guided by an image."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import PROMPT, option
from ..options import PANELS, Images
from ..settings import Settings


@with_options(*PANELS)
def write(
    settings: Settings,
    images: Images = None,
    prompt: Annotated[
        str | None,
        option("--prompt", panel=PROMPT, help="What to write, such as an ad; a story if not given."),
    ] = None,
) -> None:
    """Write a story, an ad or any other text guided by each image."""
    from ..ask import Question, ask, list_asked

    ask(list_asked(images or [], Question("write", prompt=prompt), settings), settings)
