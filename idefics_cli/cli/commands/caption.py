"""`idefics caption`: say what is in each image."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import PROMPT, option
from ..options import FORMATS, PANELS, Images
from ..settings import Settings


@with_options(*PANELS, without=FORMATS)
def caption(
    settings: Settings,
    images: Images = None,
    prompt: Annotated[
        str | None,
        option("--prompt", panel=PROMPT, help='Begin the caption with this text ("This is an image of").'),
    ] = None,
) -> None:
    """Say what is in each image."""
    from ..ask import Question, ask, list_asked

    ask(list_asked(images or [], Question("caption", prompt=prompt), settings), settings)
