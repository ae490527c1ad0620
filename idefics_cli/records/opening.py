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
        from .remote_tables import expand_remote

        return expand_remote(name)
    if os.path.isdir(name) and not has_table_suffix(name):
        return sorted(os.path.join(name, one) for one in os.listdir(name) if has_table_suffix(one))
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name))
