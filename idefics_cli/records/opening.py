"""The files of `--from`, by name, pattern or `{0000..0099}`, and opening them: here, in a bucket, on the hub."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from itertools import islice
from typing import IO

from ..errors import SourceError, UsageError
from ..images.names import name_source, parse_scheme
from .formats import has_table_suffix

MAX_FILES = 100_000
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_CONVERTED = "@~parquet"
"""The branch on which the hub keeps a Parquet copy of a dataset."""


def list_tables(name: str) -> list[str]:
    """The files that a name stands for, in order. Raises UsageError if there are none, or too many."""
    files: list[str] = []
    for one in islice(_expand_braces(name), MAX_FILES + 1):
        files += _expand(one)
        if len(files) > MAX_FILES:
            raise UsageError(f"{name_source(name)} names more than {MAX_FILES:,} files", hint="name fewer")
    if not files:
        raise UsageError(f"no table found at {name_source(name)}", hint="name a .parquet, .csv or .tar")
    return files


def open_table(name: str) -> IO[bytes]:
    """An open file with random access. Raises UsageError."""
    try:
        if parse_scheme(name) not in (None, "data"):
            from ..images.remote import open_remote

            return open_remote(name)
        return open(name, "rb")
    except SourceError as error:
        raise UsageError(str(error)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a possible file name"
        raise UsageError(f"cannot read {name_source(name)}: {reason}") from error


def _expand_braces(name: str) -> Iterator[str]:
    """`a-{0000..0003}.tar` and `{train,test}.csv` expanded as a shell does, if the shell did not."""
    numbers = _RANGE.search(name)
    choice = _CHOICE.search(name)
    if numbers is not None:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        for number in range(int(first), int(last) + 1):
            yield from _expand_braces(f"{name[: numbers.start()]}{number:0{width}d}{name[numbers.end() :]}")
    elif choice is not None:
        for word in choice[1].split(","):
            yield from _expand_braces(f"{name[: choice.start()]}{word}{name[choice.end() :]}")
    else:
        yield name


def _expand(name: str) -> list[str]:
    if parse_scheme(name) not in (None, "data"):
        return _expand_remote(name)
    if os.path.isdir(name) and not has_table_suffix(name):
        return sorted(os.path.join(name, one) for one in os.listdir(name) if has_table_suffix(one))
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name))


def _expand_remote(url: str) -> list[str]:
    """The tables of a URL: itself, the matches of its pattern, or those in its folder. Raises UsageError."""
    from ..images.remote import find_remote

    if _is_table(url) and "*" not in url:
        return [url]
    try:
        if "*" in url:
            return find_remote(url)
        first, joint, archive = url.partition("::")
        base = first.rstrip("/")
        found = list(filter(_is_table, find_remote(f"{base}/**{joint}{archive}")))
        if not found and base.startswith("hf://datasets/") and base.count("/") <= 4:
            found = list(filter(_is_table, find_remote(f"{base}{_CONVERTED}/**")))
    except SourceError as error:
        raise UsageError(str(error)) from error
    if not found:
        raise UsageError(f"no table found at {name_source(url)}", hint="name its .parquet, .csv or .tar")
    return found


def _is_table(url: str) -> bool:
    return has_table_suffix(url.partition("::")[0])
