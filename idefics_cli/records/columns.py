"""Which column of a table holds the images, and whether the named columns exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import UsageError
from .record import CellChoice

IMAGE_NAMES = (
    *("image", "images", "img", "photo", "picture", "jpg", "jpeg", "png", "webp"),
    *("image_path", "file_name", "filename", "file", "path", "image_url", "url"),
)
"""What columns of images are called, the likeliest first."""


def choose_image(name: str, wanted: CellChoice, columns: Sequence[str], likely: Collection[str] = ()) -> str:
    """The column of images: the given one, one that is `likely` by its type, or one by its name. Raises UsageError."""
    if wanted.image is not None:
        check_columns(name, (wanted.image,), columns)
        return wanted.image
    by_name = {column.lower(): column for column in reversed(columns)}
    found = [by_name[one] for one in IMAGE_NAMES if one in by_name]
    found = [one for one in found if one in likely] or [one for one in columns if one in likely] or found
    if not found:
        raise UsageError(
            f"{name} has no column that looks like images", hint=f"--image-column: {_list(columns)}"
        )
    return found[0]


def check_columns(name: str, wanted: Collection[str], columns: Sequence[str]) -> None:
    """Raise UsageError for a column that does not exist."""
    for column in wanted:
        if column not in columns:
            raise UsageError(f"{name} has no column {column!r}", hint=f"it has {_list(columns)}")


def _list(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:20])
    return f"{shown}, …" if len(columns) > 20 else shown or "none"
