"""`idefics bench`: measure this machine and checkpoint against the plain scripts."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import MODEL, OUTPUT, flag, option
from ..options import DecodingOptions, ModelOptions, OutputOptions
from ..settings import Settings

PANEL = "Measuring"
NAMES = (
    "caption-0, caption-4, caption-8, questions, rank-20, rank-100, rank-1000, mixed, lengths, one-long, photos, device"
)


@with_options(
    ModelOptions,
    only={DecodingOptions: ("max_new_tokens", "batch_size", "cache_memory"), OutputOptions: ("quiet",)},
    without=("server", "server_timeout", "server_wait", "keep_alive", "no_server"),
)
def bench(
    settings: Settings,
    random_weights: Annotated[
        str | None,
        option(
            "--random-weights",
            panel=MODEL,
            metavar="NAME",
            help="Build this architecture with random weights instead of a download: tiny, small, tiled, smolvlm-256m, "
            "smolvlm-500m, smolvlm, idefics2-8b, idefics3-8b, idefics-9b, idefics-80b, or small-ARCHITECTURE.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        option("--workload", "-w", panel=PANEL, metavar="NAME", help=f"Measure this only (repeatable): {NAMES}."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        option(
            "--arm",
            panel=PANEL,
            metavar="NAME",
            help="Run this only (repeatable): guide is the task guide's loop, one image at a time; batch is "
            "hand-written batching with transformers; idefics is this program; fixed is this program in batches that "
            "wait for their longest answer.",
        ),
    ] = None,
    architecture: Annotated[
        list[str] | None,
        option(
            "--architecture",
            panel=PANEL,
            metavar="NAME",
            help="Compare guide and idefics on small random weights of this architecture (repeatable), or of all.",
        ),
    ] = None,
    images: Annotated[
        int | None,
        option("--images", panel=PANEL, min=1, help="Images in each workload, instead of its own number."),
    ] = None,
    repeat: Annotated[int, option("--repeat", panel=PANEL, min=1, help="Measure N times and keep the fastest.")] = 1,
    decoding: Annotated[
        bool,
        flag(
            "--decoding",
            panel=PANEL,
            help="Measure only how fast answers are generated, one at a time and --batch-size (16) together.",
        ),
    ] = False,
    rival: Annotated[
        str | None,
        option(
            "--rival",
            panel=PANEL,
            metavar="NAME",
            help="Run vLLM beside the others, in CPU seconds too: vllm, or vllm-eager, which compiles nothing.",
        ),
    ] = None,
    rival_python: Annotated[
        str | None,
        option("--rival-python", panel=PANEL, metavar="FILE", help="The Python of the environment that has it."),
    ] = None,
    plot: Annotated[
        str | None, option("--plot", panel=OUTPUT, metavar="FILE", help="Save the bars as an image.")
    ] = None,
) -> None:
    """Measure this machine and checkpoint against plain transformers scripts."""
    from ..bench import BenchOptions, run_bench

    wanted = BenchOptions(
        tuple(workload or ()),
        tuple(arm or ()),
        images,
        repeat,
        plot,
        random_weights,
        decoding,
        tuple(architecture or ()),
        rival,
        rival_python,
    )
    run_bench(wanted, settings)
