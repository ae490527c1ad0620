"""Documents among the images of a command: which of their pages are asked about."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from ..errors import SourceError, UsageError
from ..images import Limits, is_url
from ..images.document import count_pages
from ..images.names import is_document_name, split_page

MAX_PAGES = 10_000
"""The most pages of a document without --pages."""
_RANGE = re.compile(r"(\d{1,6})(-(\d{1,6})?)?", re.ASCII)


def expand_pages(sources: Iterable[str], wanted: str | None, limits: Limits) -> Iterator[str]:
    """The sources, with each document's pages in its place. Raises UsageError for pages that do not exist.

    The number of pages of a remote document is not known before it is fetched: it counts as its first page, unless
    pages are named. A document that cannot be counted is its own row.
    """
    ranges = parse_pages(wanted)
    for source in sources:
        if not is_document_name(source):
            yield source
        elif is_url(source):
            last = max((stop for _, stop in ranges), default=math.inf)
            pages = _choose(ranges, int(last)) if last < math.inf else []
            yield from (f"{source}#{page}" for page in pages) if pages else [source]
        else:
            yield from _list_pages(source, ranges, limits)


def group_pages(sources: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All sources in one prompt; if all are pages, one prompt for each document."""
    if not sources or any(split_page(source) is None for source in sources):
        yield from filter(None, (sources,))
        return
    for _, pages in groupby(sources, key=lambda source: source.rpartition("#")[0]):
        yield tuple(pages)


def parse_pages(wanted: str | None) -> list[tuple[int, float]]:
    """First and last pages of ranges such as 1-5,9,12-; empty for all pages. Raises UsageError."""
    if wanted is None or wanted.strip().lower() == "all":
        return []
    ranges: list[tuple[int, float]] = []
    for part in wanted.split(","):
        match = _RANGE.fullmatch(part.strip())
        first = int(match[1]) if match else 0
        last = first if match is None or match[2] is None else math.inf if match[3] is None else int(match[3])
        if not 1 <= first <= last:
            raise UsageError(f"--pages {wanted} cannot be read at {part.strip()!r}", hint="write 1-5,9 or all")
        ranges.append((first, last))
    return ranges


def _list_pages(path: str, ranges: list[tuple[int, float]], limits: Limits) -> Iterator[str]:
    try:
        status = os.stat(path)
        count = _count(path, status.st_mtime_ns, status.st_size, limits)
    except (OSError, ValueError, SourceError):
        yield path
        return
    if not ranges and count > MAX_PAGES:
        raise UsageError(f"{path} has {count:,} pages", hint="choose some with --pages 1-100")
    pages = _choose(ranges, count) if ranges else range(1, count + 1)
    yield from (f"{path}#{page}" for page in pages)


def _choose(ranges: list[tuple[int, float]], count: int) -> list[int]:
    """The pages of a document that are in a range, each once, in order."""
    chosen = {page for first, last in ranges for page in range(first, int(min(last, count)) + 1) if page <= count}
    return sorted(chosen)


@lru_cache(maxsize=100_000)  # they are listed again to be counted
def _count(path: str, modified: int, size: int, limits: Limits) -> int:
    return count_pages(Path(path), limits)
