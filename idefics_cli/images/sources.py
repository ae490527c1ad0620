"""What to read: from command-line arguments and lists to sources, from a source to an image.

Paths are `str` as `os.fsdecode` gives them, so names in any bytes survive.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ..errors import SourceError
from ..jsonl import read_lines
from ..values import Image
from .deadline import Deadline
from .decode import decode
from .formats import has_image_suffix
from .limits import Limits
from .names import REMOTE_SCHEMES, is_document_name, name_source, parse_scheme, split_page, to_path

_stdin_lock = threading.Lock()
_stdin_read: tuple[IO[bytes], bytes] | None = None


def is_url(source: str) -> bool:
    """Whether a source is a URL of any scheme, rather than a path."""
    return parse_scheme(source) is not None


def expand(
    arguments: Iterable[str],
    *,
    recursive: bool,
    patterns: bool = True,
    documents: bool = False,
    skipped: Counter[str] | None = None,
) -> Iterator[str]:
    """The sources of arguments: folders and patterns become files, in byte order of names.

    Files, URLs of the web, "-" and missing files pass through: errors are reported when they are loaded. A pattern
    matches what a shell would match, so `**` means `*`; without `patterns` names are only names. With `documents`,
    documents in folders are taken too. Everything else in a folder is counted in `skipped`: subfolders as "", files by
    their suffix.
    """
    if skipped is None:
        skipped = Counter()
    for argument in arguments:
        if argument == "-":
            yield argument
        elif is_url(argument):
            scheme = parse_scheme(argument)
            if scheme == "file":
                yield from _expand_path(to_path(argument), recursive, documents, skipped)
            elif scheme in REMOTE_SCHEMES:
                from .remote import expand_remote

                yield from expand_remote(argument, recursive=recursive, skipped=skipped)
            else:
                # data:x.png is what it is called, if there is such a file.
                yield f"./{argument}" if scheme == "data" and os.path.lexists(argument) else argument
        elif not patterns or os.path.lexists(argument) or not glob.has_magic(argument):
            yield from _expand_path(argument, recursive, documents, skipped)
        else:
            matches = sorted(glob.glob(argument), key=os.fsencode)
            for match in matches or [argument]:
                yield from _expand_path(match, recursive, documents, skipped)


def load(source: str, limits: Limits) -> Image:
    """Read and decode one source. Raises SourceError."""
    return decode(read(source, limits), source, limits)


def read(source: str, limits: Limits, deadline: Deadline | None = None) -> bytes | Path:
    """What `decode` takes of a source: its bytes, or the path of a file that is opened later.

    All waiting for networks and pipes happens here. Raises SourceError.
    """
    if source == "-":
        return _read_stdin(limits)
    scheme = parse_scheme(source)
    if scheme in {"http", "https", "data"}:
        from .fetch import fetch  # its client costs more to import than a local image to read

        return fetch(source, limits, deadline=deadline)
    if (page := split_page(source)) is not None:
        source = page[0]
    if (within := split_member(source)) is not None:
        from ..records.lookup import read_member

        return read_member(*within, limits.max_bytes)
    if (scheme == "file" or scheme in REMOTE_SCHEMES) and not limits.allow_private_addresses:
        what = f"{name_source(source)} is not a public address"
        raise SourceError(what, code="refused", hint="leave --no-private-addresses out")
    if scheme == "file":
        return Path(to_path(source))
    if scheme in REMOTE_SCHEMES:
        from .remote import read_remote

        return read_remote(source, limits, deadline)
    if scheme is not None:
        hint = f"give a path or a URL of http, https, file, {', '.join(sorted(REMOTE_SCHEMES))}"
        raise SourceError(f"{name_source(source)} has a scheme that is not read", code="refused", hint=hint)
    if not source:
        raise SourceError("the name of an image is empty", code="not_found")
    return Path(source)


def read_names(stream: IO[bytes], *, is_null_separated: bool) -> Iterator[str]:
    """The names in a list as `find` and editors write it: one a line, or separated by NUL. In a list of lines, blank
    ones and comments are skipped; a name may begin with `#`.

    Names are not changed: nothing is stripped, and "-" is a file with that name. A URL has no spaces around it.
    """
    if is_null_separated:
        names = _split_at_null(stream)
    else:
        lines = (line for _, line in read_lines(stream))
        names = (_strip_url(line) for line in lines if not line.startswith(b"#") or os.path.lexists(line))
    for name in names:
        yield "./-" if name == b"-" else os.fsdecode(name)


def split_member(source: str) -> tuple[str, str] | None:
    """A table's name and the image in it; None for any other source."""
    if "#" not in source:
        return None
    from ..records.formats import has_table_suffix  # which most runs have no use for

    for mark in re.finditer("#", source):
        if has_table_suffix(source[: mark.start()]):
            return None if os.path.lexists(source) else (source[: mark.start()], source[mark.end() :])
    return None


def _expand_path(path: str, recursive: bool, documents: bool, skipped: Counter[str]) -> Iterator[str]:
    if os.path.isdir(path):
        yield from _list_folder(path, recursive, documents, skipped)
    else:
        yield path


def _list_folder(folder: str, recursive: bool, documents: bool, skipped: Counter[str]) -> Iterator[str]:
    """The image files of a folder, then those of its subfolders, without hidden names.

    Links to folders are followed, and each folder is listed once, so a loop of links ends.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                names = sorted((e.name for e in entries if not e.name.startswith(".")), key=os.fsencode)
        except OSError:
            # A folder that cannot be listed fails its own row; leaving it out would hide images.
            yield current
            continue
        folders: list[str] = []
        for path in (os.path.join(current, name) for name in names):
            if os.path.isdir(path):
                folders.append(path)
            elif has_image_suffix(path) or (documents and is_document_name(path)):
                yield path
            else:
                skipped[os.path.splitext(path)[1] or os.path.basename(path)] += 1
        if recursive:
            waiting.extend(reversed(folders))
        else:
            skipped[""] += len(folders)


def _read_stdin(limits: Limits) -> bytes:
    """The bytes of standard input, kept for later calls, as they can be read only once."""
    global _stdin_read
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise SourceError("standard input is not connected", code="not_found", hint="pipe an image into it")
    stream = sys.stdin.buffer
    with _stdin_lock:
        if _stdin_read is None or _stdin_read[0] is not stream:
            try:
                _stdin_read = (stream, stream.read(limits.max_bytes + 1))
            except OSError as error:
                message = f"standard input cannot be read: {error.strerror}"
                raise SourceError(message, code="not_found") from None
        data = _stdin_read[1]
    if len(data) > limits.max_bytes:
        raise SourceError(f"standard input has more than {limits.max_bytes:,} bytes", code="too_large")
    first = data[:4096].split(b"\n")[0].split(b"\0")[0].strip()
    if first and (is_url(os.fsdecode(first)) or os.path.isfile(first)):
        raise SourceError(
            "standard input has names of files, not an image", code="not_an_image", hint="use --files-from -"
        )
    return data


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
