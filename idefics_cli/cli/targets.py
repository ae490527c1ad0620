"""Where results go; what prevents writing them is found before a model is loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..config import place_state
from ..errors import UsageError
from ..files import is_own_stream
from ..images import has_image_suffix, is_url, name_source
from ..values import Item
from .formats import FORMATS, FormatName, Layout, find_format
from .inputs import ItemList
from .options import OutputOptions
from .output import FormatTraits, Output


def choose_output(work: ItemList, options: OutputOptions, *, is_single: bool) -> Output:
    """The output in its format, checked before the model is loaded."""
    given = options.output if options.output != "-" else None
    if given is not None:
        if has_image_suffix(given):
            raise UsageError(f"--output {name_source(given)} is named like an image", hint="name another file")
        _keep_apart(given, work)
    if options.existing == "retry-unsure" and (options.min_confidence is None or given is None):
        raise UsageError("--existing retry-unsure needs --min-confidence and --output", hint="give both")
    name = find_format(options.format, options.output) or ("jsonl" if given is not None else work.format)
    table = None
    if FORMATS[name].traits.is_table:
        table, given = given, _place_rows(name, given, options)
        _keep_apart(given, work)
    url = given.rstrip("/") if given is not None and is_url(given) else None
    if url is not None and not FORMATS[name].traits.can_resume:
        raise UsageError(f"--format {name} is for a file here", hint="rows in a bucket are jsonl")
    path = None if given is None else Path(given) if url is None else place_state("uploads", url) / "rows.jsonl"
    output = Output(
        format=FORMATS[name](Layout(is_single, work.questions, work.top)),
        path=path,
        existing="overwrite" if options.existing == "overwrite" else "refuse",
        is_kept_elsewhere=path is not None and keeps_rows(path, FORMATS[name].traits),
        is_silent=options.sidecar is not None and path is None and options.format is None,
        url=url,
        table=table,
    )
    if options.stream:
        if not is_single:
            raise UsageError("--stream is for a single answer", hint="give one image and one question")
        if not output.format.traits.streams or output.path is not None or options.sidecar is not None:
            raise UsageError("--stream prints text", hint="leave out --format, --output and --sidecar")
        if options.full_text:
            raise UsageError("--stream and --full-text cannot be combined", hint="leave one of them out")
    return output


def keep_inputs(items: Iterable[Item], output: Output, work: ItemList) -> Iterator[Item]:
    """The items, none of whose images is the output file. Raises UsageError if one is.

    If that file would be replaced, all items that can be listed twice are checked first.
    """
    if output.path is None or not output.path.exists() or is_own_stream(output.path):
        yield from items
        return
    target = output.path.stat()

    def check(item: Item) -> Item:
        for source in item.images:
            with contextlib.suppress(OSError, ValueError):
                if os.path.samestat(os.stat(source), target):
                    raise _refuse_target(str(output.path), "an image of the input")
        return item

    if output.existing == "overwrite" and work.count is not None:
        for item in work.items():
            check(item)
    yield from map(check, items)


def _place_rows(name: FormatName, table: str | None, options: OutputOptions) -> str:
    """The file of rows that a table is made from. Raises UsageError if it cannot be written."""
    if table is None or is_own_stream(table):
        raise UsageError(f"--format {name} is written from all rows at the end", hint="name a file with --output")
    assert name != "text"
    from ..convert.target import check_table

    rows = f"{table.rstrip('/')}.jsonl"
    is_replaced = options.existing == "overwrite" or have_rows(rows)
    check_table(name, table, is_replaced=is_replaced)
    return rows


def have_rows(place: str) -> bool:
    """Whether a run has rows already, here or in a bucket."""
    if not is_url(place):
        return Path(place).exists()
    from ..results.parts import PartStore

    return bool(PartStore(place).list())


def _keep_apart(given: str, work: ItemList) -> None:
    for name in work.files:
        if name == given:
            raise _refuse_target(name_source(given), "read by the same command")
        with contextlib.suppress(OSError, ValueError):
            if os.path.samefile(name, given) and not is_own_stream(given):
                raise _refuse_target(given, "read by the same command")


def _refuse_target(name: str, why: str) -> UsageError:
    return UsageError(f"--output {name} is {why}", hint="name another file")


def keeps_rows(path: Path, traits: FormatTraits) -> bool:
    """Whether a file can be resumed: text does not name its items, and pipes keep nothing."""
    return traits.can_resume and (path.is_file() or not path.exists())
