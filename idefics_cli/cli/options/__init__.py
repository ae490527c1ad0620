"""The options that commands share: each panel of the help is one type in a file of its name, each option one field.

To add an option, add its field: flag, environment variable, key in config.yaml and all that follows from its facts come
from there. None means "not given": a template or the built-in value decides. What was given becomes `Settings`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .decoding import DecodingOptions
from .input import InputOptions
from .model import ModelOptions
from .output import OutputOptions
from .prompt import PromptOptions
from .table import TableOptions
from .workers import WorkerOptions

__all__ = [
    "DecodingOptions",
    "InputOptions",
    "ModelOptions",
    "OutputOptions",
    "PromptOptions",
    "TableOptions",
    "WorkerOptions",
]

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE…", show_default=False, help="Files, folders, patterns, URLs, or - for standard input."
    ),
]

PANELS = (
    ModelOptions,
    WorkerOptions,
    PromptOptions,
    DecodingOptions,
    InputOptions,
    TableOptions,
    OutputOptions,
)
"""What a command about images takes."""

FORMATS = ("schema", "regex", "choices")
"""The options that say what an answer must look like."""
