"""How a task is put into words, and what an answer must look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..declare import PROMPT, Panel, option


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions(Panel):
    """How a task is put into words."""

    ORDER: ClassVar[int] = 1

    template: Annotated[
        str | None,
        option("--template", panel=PROMPT, help="Word the task with this template (name or .yaml file)."),
    ] = None
    examples: Annotated[
        str | None,
        option("--examples", panel=PROMPT, metavar="FILE", help="Few-shot examples: YAML or JSONL."),
    ] = None
    shots: Annotated[int | None, option("--shots", panel=PROMPT, min=0, help="Use the first N examples only.")] = None
    schema: Annotated[
        str | None,
        option(
            "--schema",
            panel=PROMPT,
            metavar="FILE|JSON",
            help="Answer in JSON that matches this JSON schema.",
        ),
    ] = None
    regex: Annotated[
        str | None,
        option("--regex", panel=PROMPT, metavar="RE", help="Answer in words that match a pattern."),
    ] = None
    choices: Annotated[
        str | None,
        option("--choices", panel=PROMPT, metavar="A,B,C|@FILE", help="Answer with one of these, to the letter."),
    ] = None
