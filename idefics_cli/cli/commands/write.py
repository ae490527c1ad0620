"""`idefics write`: text guided by an image."""

from __future__ import annotations

from typing import Annotated

from ..options import PROMPT, Images, Options, option, with_options


@with_options()
def write(
    options: Options,
    images: Images = None,
    prompt: Annotated[
        str | None,
        option("--prompt", panel=PROMPT, help="What to write, such as an ad; a story if not given."),
    ] = None,
) -> None:
    """Write a story, an ad or any other text guided by each image."""
    from ..ask import Question, ask

    ask(images or [], Question("write", prompt=prompt), options)
