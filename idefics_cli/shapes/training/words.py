"""What a word of the prompt finds in the picture: targets and throw-away heads for stage two.

A shape's name should find the shape, and a colour its bearer, as soon as the word is read. Left to the answers alone,
that is learned very late: the word must find the shape and the answer must find the word, and neither helps without
the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import WIDTH
from .scenes import COLOURS, KINDS, PLACES, Scene

Words = Mapping[int, tuple[bool, str]]
"""Kinds (True) and colours (False) by the id of each token that spells one."""
LAYER = 1
"""The decoder layer after which a word should have found its shape."""
_COLOUR_NAMES = tuple(COLOURS)
_PLURALS = {**{f"{kind}s": kind for kind in KINDS}, "crosses": "cross"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The word at a position and what it finds; an index one past the last means that there is no such shape."""

    position: int
    of_kind: bool
    place: int
    other: int
    """The colour of the shape that a kind finds, the kind of the shape that a colour finds."""
    extent: float
    """How large it is, as the natural logarithm of its half extent; 0 for none."""


def read_words(tokenizer: Any) -> Words:
    """The words of a tokenizer, whatever their case and number."""
    words: dict[int, tuple[bool, str]] = {}
    for index in range(len(tokenizer)):
        text = tokenizer.decode([index]).strip().lower()
        text = _PLURALS.get(text, text)
        if text in KINDS or text in COLOURS:
            words[index] = (text in KINDS, text)
    return words


def find_words(ids: Sequence[int], scenes: Sequence[Scene], words: Words, image_id: int) -> tuple[Finding, ...]:
    """What each word finds in the latest of the images before it. Words that mean two shapes are left out."""
    findings = []
    latest = -1
    for position, token in enumerate(ids):
        latest += token == image_id
        if token not in words or latest < 0:
            continue
        of_kind, word = words[token]
        scene = scenes[latest]
        meant = [shape for shape in scene.shapes if (shape.kind if of_kind else shape.colour) == word]
        if len(meant) > 1:
            continue
        place = PLACES.index(meant[0].place) if meant else len(PLACES)
        if of_kind:
            other = _COLOUR_NAMES.index(meant[0].colour) if meant else len(COLOURS)
        else:
            other = KINDS.index(meant[0].kind) if meant else len(KINDS)
        extent = math.log(meant[0].extent) if meant else 0.0
        findings.append(Finding(position, of_kind, place, other, extent))
    return tuple(findings)


class WordHeads(nn.Module):
    """What the hidden state of a word says about the shape it found."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.place = nn.Linear(WIDTH, len(PLACES) + 1)
        self.colour = nn.Linear(WIDTH, len(COLOURS) + 1)
        self.kind = nn.Linear(WIDTH, len(KINDS) + 1)
        self.extent = nn.Linear(WIDTH, 1)

    def loss(self, hidden: Tensor, findings: Sequence[tuple[int, Finding]]) -> tuple[Tensor, tuple[int, int]]:
        """The loss of a batch's `hidden`, `[batch, tokens, width]`, and how many words found it, of how many.

        Each finding comes with its row.
        """
        rows = torch.tensor([row for row, _ in findings])
        positions = torch.tensor([finding.position for _, finding in findings])
        of_kind = torch.tensor([finding.of_kind for _, finding in findings])
        other = torch.tensor([finding.other for _, finding in findings])
        states = self.norm(hidden[rows, positions].float())
        loss = F.cross_entropy(self.place(states), torch.tensor([finding.place for _, finding in findings]))
        extents = torch.tensor([finding.extent for _, finding in findings])
        found = extents != 0
        if found.any():
            loss = loss + 2 * (self.extent(states[found])[:, 0] - extents[found]).abs().mean()
        right = 0
        for head, mine in ((self.colour, of_kind), (self.kind, ~of_kind)):
            if mine.any():
                said = head(states[mine])
                loss = loss + F.cross_entropy(said, other[mine]) * mine.float().mean()
                right += int((said.argmax(-1) == other[mine]).sum())
        return loss, (right, len(findings))
