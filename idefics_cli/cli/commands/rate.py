"""`idefics rate`: how much of something each image has, as a number, or how likely a yes is."""

from __future__ import annotations

from typing import Annotated

from ...errors import UsageError
from ..command import with_options
from ..declare import PROMPT, option
from ..options import FORMATS, PANELS, Images
from ..settings import Settings


@with_options(*PANELS, without=("stream", "full_text", *FORMATS))
def rate(
    settings: Settings,
    images: Images = None,
    question: Annotated[
        str | None, option("--question", "-q", panel=PROMPT, help='What to rate: "How sharp is it?".')
    ] = None,
    scale: Annotated[
        str,
        option(
            "--scale",
            panel=PROMPT,
            metavar="A-B|yes/no",
            help="Whole numbers from A to B, or yes/no; 1-5 if not given.",
        ),
    ] = "1-5",
) -> None:
    """Rate each image: the mean over a scale by how likely the model holds each step, or how likely a yes is."""
    from ...prompts.tasks import parse_scale
    from ..ask import Question, ask, list_asked

    if question is None:
        raise UsageError("rate needs a question", hint='write --question "How sharp is it?"')
    steps = parse_scale(scale)
    ask(
        list_asked(
            images or [],
            Question(
                "rate",
                fields=(("question", question), ("scale", steps.wording)),
                labels=steps.labels,
                values=steps.values,
            ),
            settings,
        ),
        settings,
    )
