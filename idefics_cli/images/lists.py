"""Lists of sources, as `find` and editors write them: one a line, or separated by NUL. Names in any bytes survive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

from ..jsonl import read_lines
from .names import parse_scheme


def read_names(stream: IO[bytes], *, is_null_separated: bool) -> Iterator[str]:
    """The names in a list, in order. In a list of lines, blank ones and comments are skipped; a name may begin with
    `#`.

    Names are not changed: nothing is stripped, and "-" is a file with that name. A URL has no spaces around it.
    """
    if is_null_separated:
        names = _split_at_null(stream)
    else:
        lines = (line for _, line in read_lines(stream))
        names = (_strip_url(line) for line in lines if not line.startswith(b"#") or os.path.lexists(line))
    for name in names:
        yield "./-" if name == b"-" else os.fsdecode(name)


def _strip_url(line: bytes) -> bytes:
    bare = line.strip()
    return bare if parse_scheme(os.fsdecode(bare[:100])) is not None else line


def _split_at_null(stream: IO[bytes]) -> Iterator[bytes]:
    begun: list[bytes] = []
    # read1 gives what a pipe has by now, instead of waiting until there is more.
    read = getattr(stream, "read1", stream.read)
    while piece := read(1 << 16):
        first, *others = piece.split(b"\0")
        begun.append(first)
        if others:
            yield from filter(None, (b"".join(begun), *others[:-1]))
            begun = [others[-1]]
    yield from filter(None, (b"".join(begun),))
