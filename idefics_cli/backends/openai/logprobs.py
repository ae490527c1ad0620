"""Ranking with a server that gives the log-probabilities of a prompt (`prompt_logprobs` of vLLM).

Each label is sent as the assistant's finished turn, so that the token that ends it is part of its score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from ...errors import AnswerError, BadItem
from ...models.families.layout import trim_reply
from ...values import Prompt, Request
from .payload import Dialect, extend_reply, word_label, write_messages

Token = tuple[str, float, str]
"""Its id, its log-probability after those before it, and its text."""


def check_ranking(dialect: Dialect) -> None:
    if not dialect.continues_turns:
        raise BadItem(
            f"{dialect.name} is not known to return prompt log-probabilities, which ranking needs",
            hint="use --generate, or a vLLM server",
        )


def write_rankings(request: Request, images: Mapping[str, str]) -> list[dict[str, Any]]:
    """The bodies that ask for the log-probabilities of the prompt alone, then with each choice as its reply."""
    asked = [_write(request.prompt, images, is_open=True)]
    prompt = trim_reply(request.prompt)
    for choice in request.choices:
        whole = extend_reply(prompt, word_label(prompt, choice.continuation))
        asked.append(_write(whole, images, is_open=False))
    return asked


def _write(prompt: Prompt, images: Mapping[str, str], *, is_open: bool) -> dict[str, Any]:
    goes_on = prompt[-1].role == "assistant" and is_open
    return {
        "messages": write_messages(prompt, images),
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
        "add_generation_prompt": is_open and not goes_on,
        "continue_final_message": goes_on,
    }


def read_tokens(answer: Any) -> list[Token]:
    """The tokens of a prompt, without the first, which follows nothing. Raises AnswerError."""
    told = answer.get("prompt_logprobs") if isinstance(answer, Mapping) else None
    if not isinstance(told, list) or not told:
        raise AnswerError(
            "the server does not return prompt log-probabilities (prompt_logprobs), which ranking needs",
            code="refused",
            hint="use --generate",
        )
    return [_read_token(place) for place in told if place is not None]


def split_choices(rows: Sequence[Sequence[Token]]) -> list[list[Token]]:
    """The tokens of each choice: those after the common beginning of the prompt and all rows."""
    start = count_alike([[token for token, _, _ in row] for row in rows])
    labels = [list(row[start:]) for row in rows[1:]]
    for label in labels:
        # A template's line end after the turn is no part of it.
        while len(label) > 1 and not label[-1][2].strip():
            label.pop()
    if not all(labels):
        raise AnswerError("the server answers the same with a label as without one", code="fetch_failed")
    return labels


def count_alike(rows: Sequence[Sequence[Any]]) -> int:
    """With how many of the same values all rows begin."""
    return sum(1 for _ in takewhile(lambda values: len(set(values)) == 1, zip(*rows, strict=False)))


def add_up(labels: Sequence[Sequence[Token]]) -> list[float]:
    return [math.fsum(logprob for _, logprob, _ in label) for label in labels]


def _read_token(place: Any) -> Token:
    try:
        token, told = next(iter(place.items()))
        logprob = float(told["logprob"])
        text = str(told.get("decoded_token") or token)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise AnswerError("the server returned log-probabilities that cannot be read", code="fetch_failed") from error
    if not math.isfinite(logprob):
        raise AnswerError(
            "the server returned a log-probability that is not a number (NaN or infinite)",
            code="not_finite",
            hint="its model may be damaged, or its precision too low",
        )
    return str(token), logprob, text
