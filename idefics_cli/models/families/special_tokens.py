"""Special tokens in the texts of users, which are refused: a marker that a user writes would stand for an image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ...errors import PromptError
from .layout import Piece


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
