"""What can be wrong with the images of a prompt: too few, or of a kind that a processor does not support."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ...errors import BadItem, IdeficsError, PromptError, SourceError, is_of_item
from ...images import name_source
from ...values import Image
from .layout import Piece, Slot

_NO_SIDE = re.compile(r"\b(?:height|width)=0\b")
"""What a processor has to say of an image that it has made too narrow."""


def check_images(pieces: Iterable[Piece], images: Sequence[Image]) -> None:
    count = sum(isinstance(piece, Slot) for piece in pieces)
    if count != len(images):
        raise PromptError(
            f"the prompt has {count} places for images and {len(images)} images came with it",
            code="no_image",
            hint="give one image for each place",
        )


@contextmanager
def preparing(images: Sequence[Image], model_type: str) -> Iterator[None]:
    """Raise ItemError for whatever an image processor raises: the image is too small, too narrow, or unsupported."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, IdeficsError | MemoryError) or not is_of_item(error):
            raise
        reason = str(error) or type(error).__name__
        if _NO_SIDE.search(reason):
            reason = "one of its sides would have no pixels left"
        if not images:
            raise BadItem(f"{model_type} cannot take a prompt without an image: {reason}") from error
        shown = (f"{name_source(one.source)} ({one.pixels.width} x {one.pixels.height})" for one in images)
        raise SourceError(
            f"{model_type} cannot take {', '.join(shown)}: {reason}",
            code="unusable_image",
            hint="make it larger or less narrow",
        ) from error
