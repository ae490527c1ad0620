"""`idefics chat`: a conversation about images."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer

from ..options import PROMPT, Options, option, with_options

_USED = {
    *("model", "revision", "style", "device", "dtype", "quantize", "four_bit", "attention", "detail"),
    *("max_memory", "no_quantized_cache", "server", "server_timeout", "keep_alive", "no_server", "offline"),
    *("max_new_tokens", "num_beams", "temperature", "top_p", "top_k", "repetition_penalty"),
    *("no_repeat_ngram_size", "length_penalty", "stop", "seed", "cache_memory"),
    *("max_pixels", "background", "timeout", "no_private_addresses", "format", "quiet", "verbose"),
}


@with_options(without={field.name for field in fields(Options)} - _USED)
def chat(
    options: Options,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE…", show_default=False, help="Images of the first message: files, folders, URLs."
        ),
    ] = None,
    system: Annotated[
        str | None, option("--system", panel=PROMPT, help="Say first how the model is to behave.")
    ] = None,
    load: Annotated[
        str | None,
        option("--load", panel=PROMPT, metavar="FILE", help="Go on with a conversation saved by /save."),
    ] = None,
) -> None:
    """Talk with a model about images.

    On a terminal: Enter sends, Alt-Enter begins a new line, /help lists commands, Ctrl-C stops a reply, Ctrl-D ends.

    From a pipe: one question a line, one answer a line, an empty one where it failed. Lines are never commands, and
    line breaks in an answer become spaces.
    """
    from ..chat import converse

    converse(images or [], options, system=system, saved=load)
