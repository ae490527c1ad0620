"""Where results go, in which form, and what is said about a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ..declare import OUTPUT, Fact, Panel, flag, option


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions(Panel):
    """Where results go, in which form, and what is said about a run."""

    ORDER: ClassVar[int] = 5

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
            help="Write the results to a file, or to s3://… in parts; {shard} in its name is the part, as 2-of-4.",
        ),
    ] = None
    also: Annotated[
        list[str] | None,
        option(
            "--also",
            panel=OUTPUT,
            metavar="FILE",
            help="Make a table of the rows too: a .csv, a .parquet, or a folder/ to train from (repeatable).",
        ),
    ] = None
    existing: Annotated[
        Literal["resume", "retry-errors", "retry-changed", "retry-unsure", "accept-errors", "overwrite"] | None,
        option("--existing", panel=OUTPUT, help="What to do if results exist; resume if not given."),
    ] = None
    calibration: Annotated[
        str | None,
        option(
            "--calibration",
            panel=OUTPUT,
            metavar="FILE",
            help="Calibrate probabilities with a file of `calibrate`.",
        ),
    ] = None
    min_confidence: Annotated[
        float | None,
        option("--min-confidence", panel=OUTPUT, min=0, max=1, help="Warn of answers less likely than this."),
    ] = None
    sidecar: Annotated[
        str | None,
        option(
            "--sidecar",
            panel=OUTPUT,
            metavar="EXT",
            help="Write each text beside its image (.txt); xmp: as photo programs read it.",
        ),
    ] = None
    sidecar_name: Annotated[
        Literal["stem", "full"] | None,
        option("--sidecar-name", panel=OUTPUT, help="cat.txt (stem) or cat.jpg.txt (full)."),
    ] = None
    write_metadata: Annotated[
        bool,
        flag(
            "--write-metadata",
            panel=OUTPUT,
            help="Write each text into its image (JPEG, PNG, WebP): description, alt text, keywords.",
        ),
    ] = False
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
    fail_fast: Annotated[bool, flag("--fail-fast", panel=OUTPUT, help="Stop at the first failed item.")] = False
    max_errors: Annotated[
        int | None, option("--max-errors", panel=OUTPUT, min=1, help="Stop after N failed items.")
    ] = None
    full_text: Annotated[
        bool, flag("--full-text", panel=OUTPUT, help="Print the prompt before the answer."), Fact.RUN
    ] = False
    stream: Annotated[bool, flag("--stream", panel=OUTPUT, help="Print a single answer while it is being written.")] = (
        False
    )
    dry_run: Annotated[bool, flag("--dry-run", panel=OUTPUT, help="Print the assembled prompts; load no weights.")] = (
        False
    )
    quiet: Annotated[bool, flag("--quiet", panel=OUTPUT, help="Say nothing but errors on stderr.")] = False
    verbose: Annotated[bool, flag("--verbose", panel=OUTPUT, help="Say what each answer cost on stderr.")] = False
