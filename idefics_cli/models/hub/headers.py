"""The number of weights in the safetensors of a folder, from their headers; no tensor is read."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from .cache import INDEX, WEIGHTS, list_weights

MAX_HEADER_BYTES = 100_000_000
"""The most that the format allows."""


def count_parameters(folder: Path) -> int | None:
    """The number of weights of a checkpoint, None if some are missing or cannot be read."""
    try:
        index = folder / INDEX
        files = list_weights(json.loads(index.read_bytes())) if index.exists() else {WEIGHTS}
        return sum(_count(_read_header(folder / file)) for file in files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return None


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(stream.read(size))
    if not isinstance(header, dict):
        raise ValueError("no header")
    return header


def _count(header: dict[str, Any]) -> int:
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
