"""How answers are drawn, and how many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from ...prompts.decoding_ranges import RANGES, check_decoding
from ..declare import DECODING, HELD, Fact, Panel, option


def _draw(name: str, help: str) -> Any:
    """An option of `Decoding`, with its allowed range in the help."""

    def check(value: Any) -> Any:
        try:
            check_decoding(name, value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    shown = f"{help} ({RANGES[name]})." if name in RANGES and name != "seed" else f"{help}."
    return option(f"--{name.replace('_', '-')}", help=shown, panel=DECODING, callback=check)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions(Panel):
    """How answers are drawn, and how many at a time. Options that are fields of `Decoding` have the same names."""

    ORDER: ClassVar[int] = 2

    max_new_tokens: Annotated[int | None, _draw("max_new_tokens", "Longest answer, in tokens")] = None
    num_beams: Annotated[int | None, _draw("num_beams", "Beam search with N beams")] = None
    temperature: Annotated[float | None, _draw("temperature", "Sample at this temperature; 0 is greedy")] = None
    top_p: Annotated[float | None, _draw("top_p", "Sample from the likeliest tokens up to this total probability")] = (
        None
    )
    top_k: Annotated[int | None, _draw("top_k", "Sample from the K likeliest tokens; 0 means all")] = None
    repetition_penalty: Annotated[float | None, _draw("repetition_penalty", "Above 1 discourages repeated words")] = (
        None
    )
    no_repeat_ngram_size: Annotated[int | None, _draw("no_repeat_ngram_size", "Never repeat N tokens in a row")] = None
    length_penalty: Annotated[float | None, _draw("length_penalty", "Above 0 favours long beams")] = None
    stop: Annotated[list[str] | None, _draw("stop", "End the answer before this text (repeatable)")] = None
    seed: Annotated[int | None, _draw("seed", "Seed for sampling")] = None
    batch_size: Annotated[
        int | None,
        option("--batch-size", panel=DECODING, min=1, help="Requests answered at a time, at most."),
        Fact.HANDED_ON,
    ] = None
    cache_memory: Annotated[
        str | None,
        option(
            "--cache-memory",
            panel=DECODING,
            metavar="SIZE",
            help="Memory for what prompts share, as 2GB; a part of the free memory if not given.",
        ),
        HELD,
    ] = None
