"""`idefics classify`: choose one of the given labels for each image."""

from __future__ import annotations

from typing import Annotated

from ...errors import UsageError
from ...values import Normalization
from ..command import with_options
from ..declare import OUTPUT, PROMPT, option
from ..options import FORMATS, PANELS, Images
from ..settings import Settings


@with_options(*PANELS, without=("stream", *FORMATS))
def classify(
    settings: Settings,
    images: Images = None,
    labels: Annotated[
        str | None,
        option("--labels", panel=PROMPT, metavar="A,B,C|@FILE", help="The labels, or a file of them."),
    ] = None,
    generate: Annotated[
        bool,
        option("--generate", panel=PROMPT, help="Let the model write a label instead of ranking all of them."),
    ] = False,
    normalize: Annotated[
        Normalization | None,
        option(
            "--normalize",
            panel=PROMPT,
            help="Compare labels as they are, by token (tokens), or to how likely they are without the image (pmi).",
        ),
    ] = None,
    top: Annotated[
        int | None,
        option("--top", panel=OUTPUT, min=1, help="Print the K best labels with their probabilities."),
    ] = None,
) -> None:
    """Choose the likeliest of the given labels for each image."""
    from ...prompts.tasks import parse_labels
    from ..ask import Question, ask, list_asked

    if labels is None:
        raise UsageError("classify needs labels", hint="write --labels cat,dog,bird or --labels @labels.txt")
    if generate and top is not None:
        raise UsageError("--top ranks labels, --generate does not", hint="leave one of them out")
    if generate and normalize is not None:
        raise UsageError("--normalize ranks labels, --generate does not", hint="leave one of them out")
    ask(
        list_asked(
            images or [],
            Question(
                "classify",
                labels=parse_labels(labels),
                is_ranked=not generate,
                normalize=normalize or "none",
                top=top,
            ),
            settings,
        ),
        settings,
    )
