"""`idefics caption`: say what is in each image."""

from __future__ import annotations

from typing import Annotated

from ..options import PROMPT, Images, Options, option, with_options


@with_options()
def caption(
    options: Options,
    images: Images = None,
    prompt: Annotated[
        str | None,
        option("--prompt", panel=PROMPT, help='Begin the caption with this text ("This is an image of").'),
    ] = None,
) -> None:
    """Say what is in each image."""
    from ..ask import Question, ask

    ask(images or [], Question("caption", prompt=prompt), options)
