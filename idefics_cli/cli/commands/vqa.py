"""`idefics vqa`: answer questions about images."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import PROMPT, option
from ..options import PANELS, Images
from ..settings import Settings


@with_options(*PANELS)
def vqa(
    settings: Settings,
    images: Images = None,
    question: Annotated[
        list[str] | None,
        option("--question", "-q", panel=PROMPT, help="What to ask about each image (repeatable: one row each)."),
    ] = None,
) -> None:
    """Answer one or more questions about each image.

    A line of --examples: {"image": "a.png", "question": "Which colour?", "answer": "red"}
    """
    from ..ask import Question, ask, list_asked

    ask(list_asked(images or [], Question("vqa", questions=tuple(question or ())), settings), settings)
