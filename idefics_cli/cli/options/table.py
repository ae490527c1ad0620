"""Which rows of a table are read, and what of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ..declare import TABLE, Panel, option


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions(Panel):
    """Which rows of a table are read, and what of them."""

    ORDER: ClassVar[int] = 4

    table: Annotated[
        str | None,
        option(
            "--from",
            panel=TABLE,
            metavar="TABLE",
            help="Read images from a table: .parquet, .csv, .lance, a webdataset as shards-{0000..0099}.tar, a folder "
            "of them, or hf://datasets/NAME.",
        ),
    ] = None
    image_column: Annotated[
        str | None,
        option(
            "--image-column",
            panel=TABLE,
            metavar="NAME",
            help="The column of images: bytes, names or URLs; found by name and type if not given.",
        ),
    ] = None
    id_column: Annotated[
        str | None,
        option(
            "--id-column",
            panel=TABLE,
            metavar="NAME",
            help="The column of row ids; row numbers if not given.",
        ),
    ] = None
    where: Annotated[
        list[str] | None,
        option(
            "--where",
            panel=TABLE,
            metavar='"A = B"',
            help="Only rows whose column A is B; also != < <= > >= (repeatable: all must hold).",
        ),
    ] = None
