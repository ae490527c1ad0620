"""`idefics eval`: compare rows with references."""

from __future__ import annotations

from typing import Annotated

import typer

from ..command import with_options
from ..declare import OUTPUT, flag, option
from ..options import DecodingOptions, ModelOptions, OutputOptions
from ..settings import Settings

PANEL = "Measuring"
BENCHMARK = "Benchmark"


@with_options(
    ModelOptions,
    DecodingOptions,
    only={OutputOptions: ("output", "existing", "max_errors", "fail_fast", "quiet", "verbose")},
)
def eval(
    settings: Settings,
    rows: Annotated[
        list[str],
        typer.Argument(
            metavar="ROWS…",
            show_default=False,
            help="JSONL files of rows, others tested against the first; or a benchmark: vqav2, okvqa, textvqa, docvqa, "
            "coco, flickr30k, hateful-memes, imagenet, mmmu.",
        ),
    ],
    references: Annotated[
        str | None,
        option(
            "--references",
            panel=PANEL,
            metavar="FILE",
            help="What is right, by id or image: JSONL, CSV, or ROWS.review.jsonl, which is used if not given.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        option(
            "--metric",
            panel=PANEL,
            metavar="NAME",
            help="Measure this instead of what the task is measured by (repeatable): exact, accuracy, f1, vqa, anls, "
            "cider, bleu, rouge, auc, ap, ece, fields.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        option(
            "--by",
            panel=PANEL,
            metavar="FIELD",
            help="Also measure each value of this field of rows or references.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        option(
            "--positive",
            panel=PANEL,
            metavar="LABEL",
            help="The label whose ranking auc and ap measure; the mean over all if not given.",
        ),
    ] = None,
    worst: Annotated[
        int,
        option(
            "--worst",
            panel=PANEL,
            min=0,
            help="List the N items of the first file with the lowest scores; --output keeps their rows, for review.",
        ),
    ] = 0,
    review: Annotated[
        bool,
        flag("--review", panel=PANEL, help="Then open the items of --worst in the browser, to correct them."),
    ] = False,
    fail_under: Annotated[
        list[str] | None,
        option(
            "--fail-under",
            panel=PANEL,
            metavar="METRIC=VALUE",
            help="End with exit code 1 if the first file is under this (repeatable): accuracy=90.",
        ),
    ] = None,
    plot: Annotated[
        str | None, option("--plot", panel=OUTPUT, metavar="FILE", help="Save the values as a chart.")
    ] = None,
    json: Annotated[bool, flag("--json", panel=OUTPUT, help="Print one JSON document for programs.")] = False,
    shots: Annotated[
        int, option("--shots", panel=BENCHMARK, min=0, help="Draw N shots, the same for every question.")
    ] = 0,
    shots_seed: Annotated[int, option("--shots-seed", panel=BENCHMARK, help="Which shots are drawn.")] = 0,
    shots_without_image: Annotated[
        bool,
        flag(
            "--shots-without-image",
            panel=BENCHMARK,
            help="Shots without their images; IDEFICS calls 2 of these 0 shots.",
        ),
    ] = False,
    limit: Annotated[
        int | None, option("--limit", panel=BENCHMARK, min=1, help="Ask the first N questions only.")
    ] = None,
    data: Annotated[
        str | None,
        option(
            "--data",
            panel=BENCHMARK,
            metavar="FOLDER",
            help="Use this dataset instead of the one on the hub.",
        ),
    ] = None,
) -> None:
    """Measure rows against references: metrics with 95 % intervals, files side by side with a paired test.

    A benchmark is fetched and asked first: its rows go to --output (NAME.jsonl if not given) and are resumed.
    The options of model and decoding are for benchmarks. Values are times 100, as they are published.
    """
    from pathlib import Path

    from ...eval.benchmarks import Draw
    from ..eval import EvalOptions, evaluate_rows
    from ..row_files import open_files

    with open_files(rows, keeps=review) as paths:
        wanted = EvalOptions(
            paths,
            None if references is None else Path(references),
            tuple(metric or ()),
            by,
            positive,
            worst,
            review,
            tuple(fail_under or ()),
            None if plot is None else Path(plot),
            json,
            Draw(limit, shots, shots_seed, shots_without_image, None if data is None else Path(data)),
        )
        evaluate_rows(wanted, settings)
