"""Tables in buckets and on the hub: the files that a URL stands for."""

from __future__ import annotations

from ..errors import SourceError, UsageError
from ..images.names import name_source
from ..images.remote import find_remote
from .formats import has_table_suffix

_CONVERTED = "@~parquet"
"""The branch on which the hub keeps a Parquet copy of a dataset."""


def expand_remote(url: str) -> list[str]:
    """The tables of a URL: itself, the matches of its pattern, or those in its folder. Raises UsageError."""
    if has_table_suffix(url.partition("::")[0]) and "*" not in url:
        return [url]
    try:
        if "*" in url:
            return find_remote(url)
        first, joint, archive = url.partition("::")
        base = first.rstrip("/")
        found = _find_tables(f"{base}/**{joint}{archive}")
        if not found and base.startswith("hf://datasets/") and base.count("/") <= 4:
            found = _find_tables(f"{base}{_CONVERTED}/**")
    except SourceError as error:
        raise UsageError(str(error)) from error
    if not found:
        raise UsageError(f"no table found at {name_source(url)}", hint="name its .parquet, .csv or .tar")
    return found


def _find_tables(pattern: str) -> list[str]:
    return [url for url in find_remote(pattern) if has_table_suffix(url.partition("::")[0])]
