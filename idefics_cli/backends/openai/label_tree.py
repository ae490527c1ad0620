"""Ranking with a walk through the tokens of all labels, after the prompt (`logprob_token_ids` of vLLM).

Labels with the same beginning share its steps, and each step uses the server's cache of the prompt, which
log-probabilities of a whole prompt do not. Knows bodies and replies, no connection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import AnswerError
from ...models.families.layout import trim_reply
from ...values import Request, drop_images
from .logprobs import Token, count_alike
from .payload import extend_reply, find_reply, word_label, write_messages

MOST_CHILDREN = 128
"""vLLM tells of so many tokens at a time."""
_ID = "token_id:"
Path = tuple[int, ...]


class CannotWalk(Exception):
    """The server gives no log-probabilities of chosen tokens, or tokenises the beginning of a label differently."""


@dataclass(frozen=True, slots=True)
class LabelTree:
    """The tokens of each label; for each beginning of labels its text and the tokens that follow it."""

    labels: tuple[Path, ...]
    texts: Mapping[Path, str] = field(default_factory=dict)

    def list_steps(self) -> dict[Path, list[int]]:
        """Every beginning, that of the prompt first, with the tokens that follow it."""
        steps: dict[Path, list[int]] = {}
        for label in self.labels:
            for length, token in enumerate(label):
                following = steps.setdefault(label[:length], [])
                if token not in following:
                    following.append(token)
        return steps

    def score(self, logprobs: Mapping[Path, Mapping[int, float]]) -> list[list[Token]]:
        """The tokens of each label with their log-probabilities."""
        return [
            [(str(token), logprobs[label[:length]][token], "") for length, token in enumerate(label)]
            for label in self.labels
        ]


def write_tokenizations(request: Request) -> list[dict[str, Any]]:
    """The bodies that ask for the tokens of the prompt alone, then with each label as its finished reply."""
    prompt = trim_reply(drop_images(request.prompt))
    said = bool(find_reply(prompt))
    bodies: list[dict[str, Any]] = [
        {
            "messages": write_messages(prompt, {}),
            "add_generation_prompt": not said,
            "continue_final_message": said,
        }
    ]
    for choice in request.choices:
        messages = write_messages(extend_reply(prompt, word_label(prompt, choice.continuation)), {})
        bodies.append({"messages": messages, "add_generation_prompt": False, "continue_final_message": False})
    return [body | {"add_special_tokens": False, "return_token_strs": True} for body in bodies]


def build_tree(request: Request, replies: Sequence[Any]) -> LabelTree:
    """The tree of the server's tokens of labels. Raises CannotWalk if labels cannot be told apart."""
    rows = [_read_tokens(reply) for reply in replies]
    start = count_alike([ids for ids, _ in rows])
    labels: list[Path] = []
    texts: dict[Path, str] = {}
    prompt = trim_reply(request.prompt)
    for choice, (ids, strings) in zip(request.choices, rows[1:], strict=True):
        own, pieces = list(ids[start:]), list(strings[start:])
        while len(own) > 1 and not _clean(pieces[-1]).strip():  # a template's line end after the turn
            own.pop()
            pieces.pop()
        if not own:
            raise CannotWalk
        label = tuple(own)
        labels.append(label)
        name = word_label(prompt, choice.continuation)
        for length in range(1, len(label)):
            said = "".join(map(_clean, pieces[:length]))
            said = said if find_reply(prompt) else said.lstrip()
            if not name.startswith(said):
                raise CannotWalk
            texts[label[:length]] = said
    return LabelTree(tuple(labels), texts)


def write_step(
    request: Request, images: Mapping[str, str], said_so_far: str, children: Sequence[int]
) -> dict[str, Any]:
    """The body that asks for the log-probabilities of some tokens after the prompt and the beginning of a label."""
    prompt = trim_reply(request.prompt)
    if said_so_far:
        prompt = extend_reply(prompt, said_so_far)
    goes_on = prompt[-1].role == "assistant"
    return {
        "messages": write_messages(prompt, images),
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "logprob_token_ids": list(children),
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
        "add_generation_prompt": not goes_on,
        "continue_final_message": goes_on,
    }


def split_children(children: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(children), MOST_CHILDREN):
        yield children[start : start + MOST_CHILDREN]


def read_step(reply: Any, path: Path, children: Sequence[int]) -> dict[int, float]:
    """The log-probability of each child. Raises CannotWalk if there is none, or the text has other tokens."""
    try:
        ids = reply["prompt_token_ids"]
        told = {one["token"]: one["logprob"] for one in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        found = {child: float(told[f"{_ID}{child}"]) for child in children}
    except (LookupError, TypeError, ValueError) as error:
        raise CannotWalk from error
    if path and (not isinstance(ids, list) or tuple(ids[-len(path) :]) != path):
        raise CannotWalk
    if not all(map(math.isfinite, found.values())):
        raise AnswerError(
            "the server returned a log-probability that is not a number (NaN or infinite)",
            code="not_finite",
            hint="its model may be damaged, or its precision too low",
        )
    return found


def _read_tokens(reply: Any) -> tuple[list[int], list[str]]:
    ids = reply.get("tokens") if isinstance(reply, Mapping) else None
    strings = reply.get("token_strs") if isinstance(reply, Mapping) else None
    if not isinstance(ids, list) or not isinstance(strings, list) or len(ids) != len(strings) or not ids:
        raise CannotWalk
    return ids, [str(one) for one in strings]


def _clean(piece: str) -> str:
    """A token as text: vocabularies have a letter of their own for a space and for a line break."""
    return piece.replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\n")
