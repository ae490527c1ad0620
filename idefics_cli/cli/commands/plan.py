"""`idefics plan`: how long a big run will take, and what it will wait for."""

from __future__ import annotations

from typing import Annotated

from ..command import with_options
from ..declare import action
from ..options import Images, InputOptions, ModelOptions, OutputOptions
from ..settings import Settings

PANEL = "Plan"


@with_options(
    only={
        ModelOptions: ("model", "revision", "dtype", "quantization", "four_bit", "detail", "offline"),
        InputOptions: ("recursive", "files_from", "null", "timeout", "no_private_addresses"),
        OutputOptions: ("format", "quiet"),
    }
)
def plan(
    settings: Settings,
    images: Images = None,
    workers: Annotated[
        int, action("--workers", panel=PANEL, min=1, max=100_000, help="Workers, a GPU each; 1 if not given.")
    ] = 1,
    gpu: Annotated[
        str | None,
        action("--gpu", panel=PANEL, help="Their cards: a100, h100, l4 …; this machine's if not given."),
    ] = None,
    cores: Annotated[
        int | None,
        action("--cores", panel=PANEL, min=1, help="Cores that each has to prepare images; as many as here."),
    ] = None,
    count: Annotated[
        int | None, action("--count", panel=PANEL, min=1, help="So many images, like those that are named.")
    ] = None,
    rows: Annotated[
        str | None,
        action("--rows", panel=PANEL, metavar="FILE", help="Rows of one worker, which tell what an answer takes."),
    ] = None,
) -> None:
    """Say how many images a second a run will answer, how long it takes, and what it waits for.

    Some of the images are read to see how fast that is; what the model takes is computed, or read from rows.
    """
    from ..plan import PlanOptions, print_plan

    print_plan(images or [], PlanOptions(workers, gpu, cores, count, rows), settings)
