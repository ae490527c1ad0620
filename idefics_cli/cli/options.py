"""The options that commands share, each declared once with its flag, environment variable and help.

`with_options` gives them to a command as one value. None means "not given": a template or the built-in value decides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

import typer

from ..values import Style

MODEL, PROMPT, DECODING, INPUT, OUTPUT = "Model", "Prompt", "Decoding", "Input", "Output"


def option(*names: str, help: str, panel: str, **settings: Any) -> Any:
    """An option with its environment variable: `--num-beams` is also $IDEFICS_NUM_BEAMS."""
    long = next(name for name in names if name.startswith("--"))
    variable = "IDEFICS_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        *names,
        help=help,
        envvar=variable,
        show_envvar=False,
        show_default=False,
        rich_help_panel=panel,
        **settings,
    )


def action(*names: str, help: str, panel: str) -> Any:
    """A flag that makes the command do something else: never a habit, so neither the environment nor a file has it."""
    return typer.Option(*names, help=help, show_default=False, rich_help_panel=panel)


def flag(*names: str, help: str, panel: str) -> Any:
    """An option without a value and without a `--no-` twin."""
    return option(*names, help=help, panel=panel)


Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE…", show_default=False, help="Files, folders, patterns, URLs, or - for standard input."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user set, from wherever: flag, environment or config.yaml."""

    model: Annotated[
        str | None,
        option(
            "--model", "-m", panel=MODEL, help="Short name, hub id (org/name) or folder; auto if not given."
        ),
    ] = None
    revision: Annotated[
        str | None, option("--revision", panel=MODEL, help="Branch, tag or commit on the hub.")
    ] = None
    style: Annotated[
        Style | None,
        option("--style", panel=MODEL, help="How prompts are worded; by the checkpoint if not given."),
    ] = None
    device: Annotated[
        str | None, option("--device", panel=MODEL, help="auto, cpu, cuda, cuda:1, mps, xpu.")
    ] = None
    dtype: Annotated[
        str | None,
        option(
            "--dtype",
            panel=MODEL,
            help="auto (bfloat16 on a GPU, what is faster on a CPU), bfloat16, float16 or float32.",
        ),
    ] = None
    quantize: Annotated[
        Literal["4bit", "8bit", "int8"] | None,
        option("--quantize", panel=MODEL, help="Hold the weights in fewer bits."),
    ] = None
    four_bit: Annotated[bool, flag("--4bit", panel=MODEL, help="The same as --quantize 4bit.")] = False
    attention: Annotated[
        Literal["sdpa", "eager", "flash"] | None,
        option("--attention", panel=MODEL, help="Attention kernels; sdpa if not given."),
    ] = None
    detail: Annotated[
        Literal["low", "medium", "high"] | None,
        option("--detail", panel=MODEL, help="Tiles per image, for models that cut images into tiles."),
    ] = None
    max_memory: Annotated[
        str | None,
        option(
            "--max-memory",
            panel=MODEL,
            metavar="LIST",
            help="Spread the weights: so much on each GPU, the rest on the CPU, as 0=20GiB,1=20GiB,cpu=60GiB.",
        ),
    ] = None
    no_quantized_cache: Annotated[
        bool, flag("--no-quantized-cache", panel=MODEL, help="Keep no quantized weights on disk.")
    ] = False
    server: Annotated[
        str | None,
        option(
            "--server",
            panel=MODEL,
            metavar="URL",
            help="Ask an OpenAI-compatible server; --model is its name there.",
        ),
    ] = None
    server_timeout: Annotated[
        float | None,
        option("--server-timeout", panel=MODEL, min=0.1, help="Seconds the server may take for an answer."),
    ] = None
    keep_alive: Annotated[
        str | None,
        option(
            "--keep-alive",
            panel=MODEL,
            metavar="DURATION",
            help="Keep the model loaded for so long without work, in the background: 5m, 1h, 0, forever.",
        ),
    ] = None
    no_server: Annotated[
        bool, flag("--no-server", panel=MODEL, help="Load the model here, whatever server is running.")
    ] = False
    offline: Annotated[bool, flag("--offline", panel=MODEL, help="Use downloaded checkpoints only.")] = False

    template: Annotated[
        str | None,
        option("--template", panel=PROMPT, help="Word the task with this template (name or .yaml file)."),
    ] = None
    examples: Annotated[
        str | None,
        option("--examples", panel=PROMPT, metavar="FILE", help="Few-shot examples: YAML or JSONL."),
    ] = None
    shots: Annotated[
        int | None, option("--shots", panel=PROMPT, min=0, help="Use the first N examples only.")
    ] = None

    max_new_tokens: Annotated[
        int | None, option("--max-new-tokens", panel=DECODING, min=1, help="Longest answer, in tokens.")
    ] = None
    num_beams: Annotated[
        int | None, option("--num-beams", panel=DECODING, min=1, help="Beam search with N beams.")
    ] = None
    temperature: Annotated[
        float | None,
        option("--temperature", panel=DECODING, min=0, help="Sample at this temperature; 0 is greedy."),
    ] = None
    top_p: Annotated[
        float | None,
        option(
            "--top-p", panel=DECODING, min=0, max=1, help="Sample from the likeliest tokens of this total."
        ),
    ] = None
    top_k: Annotated[
        int | None, option("--top-k", panel=DECODING, min=0, help="Sample from the K likeliest tokens.")
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option(
            "--repetition-penalty", panel=DECODING, min=0, help="Above 1 discourages what was said before."
        ),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        option("--no-repeat-ngram-size", panel=DECODING, min=0, help="Never repeat N tokens in a row."),
    ] = None
    length_penalty: Annotated[
        float | None, option("--length-penalty", panel=DECODING, help="Above 0 favours long beams.")
    ] = None
    stop: Annotated[
        list[str] | None,
        option("--stop", panel=DECODING, help="End the answer before this text (repeatable)."),
    ] = None
    seed: Annotated[int | None, option("--seed", panel=DECODING, min=0, help="Seed for sampling.")] = None
    batch_size: Annotated[
        int | None, option("--batch-size", panel=DECODING, min=1, help="Requests answered at a time.")
    ] = None
    cache_memory: Annotated[
        str | None,
        option(
            "--cache-memory",
            panel=DECODING,
            metavar="SIZE",
            help="Memory for what prompts share, as 2GB; a part of the free memory if not given.",
        ),
    ] = None

    recursive: Annotated[bool, flag("--recursive", "-r", panel=INPUT, help="Descend into folders.")] = False
    files_from: Annotated[
        str | None,
        option("--files-from", panel=INPUT, metavar="FILE|-", help="Read names of images from a list too."),
    ] = None
    null: Annotated[
        bool, flag("--null", "-0", panel=INPUT, help="The list is separated by NUL, not by lines.")
    ] = False
    shard: Annotated[
        str | None,
        option("--shard", panel=INPUT, metavar="I/N", help="Only the I-th of N parts of the items."),
    ] = None
    together: Annotated[bool, flag("--together", panel=INPUT, help="All images in one prompt.")] = False
    max_pixels: Annotated[
        int | None, option("--max-pixels", panel=INPUT, min=1, help="Refuse larger images.")
    ] = None
    background: Annotated[
        str | None, option("--background", panel=INPUT, help="Colour under transparent images, as #rrggbb.")
    ] = None

    timeout: Annotated[
        float | None, option("--timeout", panel=INPUT, min=0.1, help="Seconds for fetching one URL, in all.")
    ] = None
    no_private_addresses: Annotated[
        bool, flag("--no-private-addresses", panel=INPUT, help="Fetch from public addresses only.")
    ] = False

    format: Annotated[
        Literal["text", "jsonl"] | None,
        option("--format", panel=OUTPUT, help="text for people, jsonl for programs (and for --output)."),
    ] = None
    output: Annotated[
        str | None,
        option("--output", "-o", panel=OUTPUT, metavar="FILE", help="Write the results to a file."),
    ] = None
    existing: Annotated[
        Literal["resume", "retry-errors", "overwrite"] | None,
        option("--existing", panel=OUTPUT, help="How to go on where results exist; resume if not given."),
    ] = None
    sidecar: Annotated[
        str | None,
        option("--sidecar", panel=OUTPUT, metavar="EXT", help="Write each text beside its image (.txt)."),
    ] = None
    sidecar_name: Annotated[
        Literal["stem", "full"] | None,
        option("--sidecar-name", panel=OUTPUT, help="cat.txt (stem) or cat.jpg.txt (full)."),
    ] = None
    unordered: Annotated[
        bool, flag("--unordered", panel=OUTPUT, help="Write results as they finish, not in input order.")
    ] = False
    fail_fast: Annotated[bool, flag("--fail-fast", panel=OUTPUT, help="Stop at the first failed item.")] = (
        False
    )
    max_errors: Annotated[
        int | None, option("--max-errors", panel=OUTPUT, min=1, help="Stop after N failed items.")
    ] = None
    full_text: Annotated[
        bool, flag("--full-text", panel=OUTPUT, help="Print the prompt before the answer.")
    ] = False
    stream: Annotated[
        bool, flag("--stream", panel=OUTPUT, help="Print a single answer while it is being written.")
    ] = False
    dry_run: Annotated[
        bool, flag("--dry-run", panel=OUTPUT, help="Print the assembled prompts; load no weights.")
    ] = False
    quiet: Annotated[bool, flag("--quiet", panel=OUTPUT, help="Say nothing but errors on stderr.")] = False
    verbose: Annotated[bool, flag("--verbose", panel=OUTPUT, help="Say what each answer cost on stderr.")] = (
        False
    )


@cache
def list_parameters() -> tuple[inspect.Parameter, ...]:
    """The shared options as a command declares them."""
    hints = get_type_hints(Options, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return tuple(
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(Options)
    )


def with_options(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take all shared options as its one parameter `options`, save those that would do nothing in it."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "options"
        ]
        shared = [parameter for parameter in list_parameters() if parameter.name not in without]

        def command(**values: Any) -> None:
            options = Options(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            function(**values, options=options)

        parameters = [*own, *shared]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        return command

    return decorate
