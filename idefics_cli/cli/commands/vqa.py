"""`idefics vqa`: answer questions about images."""

from __future__ import annotations

from typing import Annotated

from ..options import PROMPT, Images, Options, option, with_options


@with_options()
def vqa(
    options: Options,
    images: Images = None,
    question: Annotated[
        list[str] | None,
        option(
            "--question", "-q", panel=PROMPT, help="What to ask about each image (repeatable: one row each)."
        ),
    ] = None,
) -> None:
    """Answer one or more questions about each image."""
    from ..ask import Question, ask

    ask(images or [], Question("vqa", questions=tuple(question or ())), options)
