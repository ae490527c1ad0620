"""Which checkpoint answers, and how this machine or a server has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ...models.quantization.table import QuantizationName
from ...values import Style
from ..declare import HELD, MODEL, WEIGHTS, Fact, Panel, flag, option


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(Panel):
    """Which checkpoint, and how its weights are held, or which server has it."""

    ORDER: ClassVar[int] = 0

    model: Annotated[
        str | None,
        option("--model", "-m", panel=MODEL, help="Short name, hub id (org/name) or folder; auto if not given."),
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
    compiles: Annotated[
        bool,
        flag(
            "--compile",
            panel=MODEL,
            help="Compile decoding steps: half a minute once, then a little faster; needs a C++ compiler.",
        ),
        WEIGHTS,
    ] = False
    detail: Annotated[
        Literal["low", "medium", "high"] | None,
        option("--detail", panel=MODEL, help="Tiles per image, for models that cut images into tiles."),
        WEIGHTS | Fact.RUN,
    ] = None
    think: Annotated[
        bool,
        flag("--think", panel=MODEL, help="Let a model think first, if it can; thoughts are not in the text."),
        WEIGHTS | Fact.RUN,
    ] = False
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
        bool, flag("--no-quantized-cache", panel=MODEL, help="Keep no quantized weights on disk."), HELD
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
    offline: Annotated[bool, flag("--offline", panel=MODEL, help="Use downloaded checkpoints only."), HELD] = False
    yes: Annotated[bool, flag("--yes", panel=MODEL, help="Do not ask before a download of over 2 GB.")] = False
