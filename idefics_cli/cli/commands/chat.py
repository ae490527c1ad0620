"""`idefics chat`: a conversation about images."""

from __future__ import annotations

from typing import Annotated

import typer

from ..command import with_options
from ..declare import PROMPT, option
from ..options import DecodingOptions, InputOptions, ModelOptions, OutputOptions
from ..settings import Settings


@with_options(
    ModelOptions,
    DecodingOptions,
    only={
        InputOptions: ("max_pixels", "decode_timeout", "background", "timeout", "no_private_addresses"),
        OutputOptions: ("format", "quiet", "verbose"),
    },
    without=("batch_size",),
)
def chat(
    settings: Settings,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE…", show_default=False, help="Images of the first message: files, folders, URLs."),
    ] = None,
    system: Annotated[
        str | None, option("--system", panel=PROMPT, help="System message: how the model should behave.")
    ] = None,
    load: Annotated[
        str | None,
        option("--load", panel=PROMPT, metavar="FILE", help="Continue a conversation saved by /save."),
    ] = None,
) -> None:
    """Talk with a model about images.

    On a terminal: Enter sends, Alt-Enter begins a new line, /help lists commands, Ctrl-C stops a reply, Ctrl-D ends.

    From a pipe: one question a line, one answer a line, an empty one where it failed. Lines are never commands, and
    line breaks in an answer become spaces.
    """
    from ..chat import converse

    converse(images or [], settings, system=system, saved=load)
