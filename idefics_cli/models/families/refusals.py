"""What is refused of a prompt: special tokens in the texts of users, as a marker that a user writes would stand for an
image, and images that are too few or of a kind that a processor does not support.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...errors import BadItem, IdeficsError, PromptError, SourceError, is_of_item
from ...images import name_source
from ...values import Image
from .layout import Piece, Slot

_NO_SIDE = re.compile(r"\b(?:height|width)=0\b")
"""What a processor has to say of an image that it has made too narrow."""


def list_added_tokens(tokenizer: Any) -> dict[str, int]:
    """The special and added tokens of a tokenizer by their text, without runs of spaces."""
    special = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    tokens = {**tokenizer.get_added_vocab(), **dict(special)}
    return {token: index for token, index in tokens.items() if token.strip()}


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of these tokens, the longest first."""
    return re.compile("|".join(re.escape(token) for token in sorted(set(tokens), key=len, reverse=True)))


def special_token(token: str) -> PromptError:
    """Why a text that contains this one is refused."""
    return PromptError(
        f"the text contains {token!r}, a special token of the model",
        code="special_token",
        hint="leave it out or write it another way",
    )


def refuse_markers(pieces: Iterable[Piece], forbidden: re.Pattern[str]) -> None:
    """Raise PromptError for a text that contains a marker."""
    for piece in pieces:
        found = forbidden.search(piece) if isinstance(piece, str) else None
        if found:
            raise special_token(found.group())


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
