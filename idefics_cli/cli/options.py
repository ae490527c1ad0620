"""The options that commands share: one type for each panel of the help, one field for each option.

To add an option, add its field: flag, environment variable, key in config.yaml and all that follows from its facts come
from there. None means "not given": a template or the built-in value decides. What was given becomes `Settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import typer

from ..models.quantization.table import QuantizationName
from ..prompts.decoding_ranges import RANGES, check_decoding
from ..values import Style
from .declare import HELD, WEIGHTS, Fact, Panel, flag, option

MODEL, PROMPT, DECODING, INPUT, OUTPUT = "Model", "Prompt", "Decoding", "Input", "Output"

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE…", show_default=False, help="Files, folders, patterns, URLs, or - for standard input."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(Panel):
    """Which checkpoint, and how its weights are held, or which server has it."""

    ORDER: ClassVar[int] = 0

    model: Annotated[
        str | None,
        option(
            "--model", "-m", panel=MODEL, help="Short name, hub id (org/name) or folder; auto if not given."
        ),
    ] = None
    revision: Annotated[
        str | None,
        option("--revision", panel=MODEL, help="Branch, tag or commit on the hub."),
        WEIGHTS | Fact.RUN,
    ] = None
    style: Annotated[
        Style | None,
        option("--style", panel=MODEL, help="How prompts are worded; by the checkpoint if not given."),
        Fact.SPEC | Fact.RUN,
    ] = None
    device: Annotated[
        str | None, option("--device", panel=MODEL, help="auto, cpu, cuda, cuda:1, mps, xpu."), WEIGHTS
    ] = None
    dtype: Annotated[
        str | None,
        option(
            "--dtype",
            panel=MODEL,
            help="auto (bfloat16 on a GPU, what is faster on a CPU), bfloat16, float16 or float32.",
        ),
        WEIGHTS | Fact.RUN,
    ] = None
    quantization: Annotated[
        QuantizationName | None,
        option("--quantize", panel=MODEL, help="Hold the weights in fewer bits."),
        WEIGHTS | Fact.RUN,
    ] = None
    four_bit: Annotated[bool, flag("--4bit", panel=MODEL, help="The same as --quantize 4bit."), HELD] = False
    attention: Annotated[
        Literal["sdpa", "eager", "flash"] | None,
        option("--attention", panel=MODEL, help="Attention kernels; sdpa if not given."),
        WEIGHTS,
    ] = None
    detail: Annotated[
        Literal["low", "medium", "high"] | None,
        option("--detail", panel=MODEL, help="Tiles per image, for models that cut images into tiles."),
        WEIGHTS | Fact.RUN,
    ] = None
    max_memory: Annotated[
        str | None,
        option(
            "--max-memory",
            panel=MODEL,
            metavar="LIST",
            help="Spread the weights: so much on each GPU, the rest on the CPU, as 0=20GiB,1=20GiB,cpu=60GiB.",
        ),
        WEIGHTS,
    ] = None
    no_quantized_cache: Annotated[
        bool,
        flag("--no-quantized-cache", panel=MODEL, help="Keep no quantized weights on disk."),
        HELD,
    ] = False
    server: Annotated[
        list[str] | None,
        option(
            "--server",
            panel=MODEL,
            metavar="URL|@FILE",
            help="Ask an OpenAI-compatible server; --model is its name there. Several (repeatable) share the work.",
        ),
    ] = None
    server_timeout: Annotated[
        float | None,
        option("--server-timeout", panel=MODEL, min=0.1, help="Seconds the server may take for an answer."),
    ] = None
    server_wait: Annotated[
        float | None,
        option("--server-wait", panel=MODEL, min=0, help="Seconds to wait for a lost server; else 180."),
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
    offline: Annotated[
        bool,
        flag("--offline", panel=MODEL, help="Use downloaded checkpoints only."),
        HELD,
    ] = False
    yes: Annotated[bool, flag("--yes", panel=MODEL, help="Do not ask before a download of over 2 GB.")] = (
        False
    )


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
    shots: Annotated[
        int | None, option("--shots", panel=PROMPT, min=0, help="Use the first N examples only.")
    ] = None
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
        option(
            "--choices", panel=PROMPT, metavar="A,B,C|@FILE", help="Answer with one of these, to the letter."
        ),
    ] = None


def _draw(name: str, help: str) -> Any:
    """An option of `Decoding`, which says what it may be."""

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
    """How answers are drawn, and how many at a time. Those of `Decoding` have its names."""

    ORDER: ClassVar[int] = 2

    max_new_tokens: Annotated[int | None, _draw("max_new_tokens", "Longest answer, in tokens")] = None
    num_beams: Annotated[int | None, _draw("num_beams", "Beam search with N beams")] = None
    temperature: Annotated[float | None, _draw("temperature", "Sample at this temperature; 0 is greedy")] = (
        None
    )
    top_p: Annotated[float | None, _draw("top_p", "Sample from the likeliest tokens of this total")] = None
    top_k: Annotated[int | None, _draw("top_k", "Sample from the K likeliest tokens; 0 is from all")] = None
    repetition_penalty: Annotated[
        float | None, _draw("repetition_penalty", "Above 1 discourages what was said before")
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None, _draw("no_repeat_ngram_size", "Never repeat N tokens in a row")
    ] = None
    length_penalty: Annotated[float | None, _draw("length_penalty", "Above 0 favours long beams")] = None
    stop: Annotated[list[str] | None, _draw("stop", "End the answer before this text (repeatable)")] = None
    seed: Annotated[int | None, _draw("seed", "Seed for sampling")] = None
    batch_size: Annotated[
        int | None,
        option("--batch-size", panel=DECODING, min=1, help="Requests answered at a time."),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions(Panel):
    """Which images are read, and how."""

    ORDER: ClassVar[int] = 3

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
        option(
            "--shard",
            panel=INPUT,
            metavar="I/N|auto",
            help="Only the I-th of N parts of the items; auto: as SLURM, Kubernetes or torchrun number this process.",
        ),
    ] = None
    together: Annotated[bool, flag("--together", panel=INPUT, help="All images in one prompt.")] = False
    max_pixels: Annotated[
        int | None, option("--max-pixels", panel=INPUT, min=1, help="Refuse larger images.")
    ] = None
    decode_timeout: Annotated[
        float | None,
        option(
            "--decode-timeout", panel=INPUT, min=0.1, help="Seconds for decoding one image; 30 if not given."
        ),
    ] = None
    background: Annotated[
        str | None,
        option("--background", panel=INPUT, help="Colour under transparent images, as #rrggbb."),
        Fact.RUN,
    ] = None
    timeout: Annotated[
        float | None, option("--timeout", panel=INPUT, min=0.1, help="Seconds for fetching one URL, in all.")
    ] = None
    no_private_addresses: Annotated[
        bool, flag("--no-private-addresses", panel=INPUT, help="Fetch from public addresses only.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions(Panel):
    """Where results go, in which form, and how a run is told."""

    ORDER: ClassVar[int] = 4

    format: Annotated[
        Literal["text", "jsonl", "csv", "parquet", "imagefolder"] | None,
        option(
            "--format",
            panel=OUTPUT,
            help="text for people, jsonl for programs (and for --output), others for tables and training.",
        ),
    ] = None
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            panel=OUTPUT,
            metavar="FILE",
            help="Write the results to a file; {shard} in its name is the part, as 2-of-4.",
        ),
    ] = None
    existing: Annotated[
        Literal["resume", "retry-errors", "accept-errors", "overwrite"] | None,
        option("--existing", panel=OUTPUT, help="How to go on where results exist; resume if not given."),
    ] = None
    calibration: Annotated[
        str | None,
        option("--calibration", panel=OUTPUT, metavar="FILE", help="Probabilities as calibrate fitted."),
    ] = None
    min_confidence: Annotated[
        float | None,
        option("--min-confidence", panel=OUTPUT, min=0, max=1, help="Warn of answers less likely than this."),
    ] = None
    sidecar: Annotated[
        str | None,
        option("--sidecar", panel=OUTPUT, metavar="EXT", help="Write each text beside its image (.txt)."),
    ] = None
    sidecar_name: Annotated[
        Literal["stem", "full"] | None,
        option("--sidecar-name", panel=OUTPUT, help="cat.txt (stem) or cat.jpg.txt (full)."),
    ] = None
    overwrite_foreign: Annotated[
        bool,
        flag(
            "--overwrite-foreign",
            panel=OUTPUT,
            help="Replace texts beside images that idefics did not write.",
        ),
    ] = False
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
        bool, flag("--full-text", panel=OUTPUT, help="Print the prompt before the answer."), Fact.RUN
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


PANELS = (ModelOptions, PromptOptions, DecodingOptions, InputOptions, OutputOptions)
"""What a command about images takes."""

FORMATS = ("schema", "regex", "choices")
"""The options that say what an answer must look like."""
