"""Sizes in bytes: of a folder on disk, and as text."""

from __future__ import annotations

import os
from pathlib import Path


def count_folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder; links, such as snapshots of the hub, count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                total += 0 if os.path.islink(path) else os.path.getsize(path)
            except OSError:
                continue  # removed meanwhile
    return total


def format_bytes(count: float) -> str:
    """Bytes in powers of ten, as models.yaml has them: 16.81 GB, 9.64 MB, 0.5 kB."""
    if count >= 1e8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
