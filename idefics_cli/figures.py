"""Figures as people read them: aligned columns, bytes and times."""

from __future__ import annotations

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], *, right_from: int | None = None) -> list[str]:
    """Lines with aligned columns: those from `right_from` on to the right, the others to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if right_from is None or number < right_from else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def format_bytes(count: float) -> str:
    """Bytes in powers of ten, as models.yaml has them: 16.81 GB, 9.64 MB, 0.5 kB."""
    if count >= 1e8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def describe_seconds(seconds: float) -> str:
    """The time as a short text: 3 s, 2 min."""
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"
