"""Which images are read, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..declare import INPUT, Fact, Panel, flag, option


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions(Panel):
    """Which images are read, and how."""

    ORDER: ClassVar[int] = 3

    recursive: Annotated[bool, flag("--recursive", "-r", panel=INPUT, help="Read subfolders too.")] = False
    files_from: Annotated[
        str | None,
        option("--files-from", panel=INPUT, metavar="FILE|-", help="Read names of images from a list too."),
    ] = None
    null: Annotated[bool, flag("--null", "-0", panel=INPUT, help="The list is separated by NUL, not by lines.")] = False
    shard: Annotated[
        str | None,
        option(
            "--shard",
            panel=INPUT,
            metavar="I/N|auto",
            help="Only the I-th of N parts of the items; auto: as SLURM, Kubernetes or torchrun number this process.",
        ),
    ] = None
    together: Annotated[
        bool,
        flag("--together", panel=INPUT, help="All images in one prompt; of documents, the pages of each."),
    ] = False
    pages: Annotated[
        str | None,
        option(
            "--pages",
            panel=INPUT,
            metavar="LIST",
            help="These pages of PDF documents, as 1-5,9; all reads those in folders too.",
        ),
    ] = None
    dpi: Annotated[
        int | None,
        option("--dpi", panel=INPUT, min=10, max=1200, help="Draw pages at this resolution; 150 if not given."),
        Fact.RUN,
    ] = None
    max_pixels: Annotated[int | None, option("--max-pixels", panel=INPUT, min=1, help="Refuse larger images.")] = None
    decode_timeout: Annotated[
        float | None,
        option("--decode-timeout", panel=INPUT, min=0.1, help="Seconds for decoding one image; 30 if not given."),
    ] = None
    fast_decode: Annotated[
        bool,
        flag(
            "--fast-decode",
            panel=INPUT,
            help="Decode JPEGs at 1/2 to 1/8 of their size where the model wants no more; pixels differ a little.",
        ),
        Fact.RUN | Fact.LOCAL,
    ] = False
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
