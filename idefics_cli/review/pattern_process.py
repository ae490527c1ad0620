"""A process that matches a pattern: it can be stopped if that takes too long.

Reads texts from its standard input, which is the file of a `TextStore`, and writes the numbers of those that match.
"""

from __future__ import annotations

import array
import os
import re
import sys

MAX_SECONDS = 3
MAX_BYTES = 1 << 30


def main(place: str, pattern: str) -> None:
    """Match the answers alone (`text`), or everything that a row is found by."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    search = re.compile(pattern, re.IGNORECASE | re.MULTILINE).search
    found = array.array("i")
    number, position, rest = 0, 0, b""
    while block := os.pread(0, 1 << 22, position):
        position += len(block)
        whole, zero, after = block.rpartition(b"\0")
        if not zero:
            rest += block
            continue
        texts = (rest + whole).decode("utf-8", "replace").split("\0")
        rest = after
        if place == "text":
            texts = [text.partition("\n\x1f\n")[0] for text in texts]
        found.extend([number + place for place, text in enumerate(texts) if search(text)])
        number += len(texts)
    with os.fdopen(1, "wb") as out:
        found.tofile(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
