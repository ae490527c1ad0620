"""Stage two of the training: all weights, on lessons worded by the templates.

The vision tower runs once per picture of a step and serves all lessons about it; the loss is taken on answers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import IdeficsForVisionText2Text

from ..models.families.idefics import IdeficsFamily
from ..values import list_sources
from .lessons import Lesson, draw_lesson
from .scenes import Scene

PICTURES = 48
"""Pictures a step."""
GROUPS = (96, 48, 32)
"""Rows a step: short ones about one image, longer ones, and those with several images.

The counts and the coarse lengths never vary much, because oneDNN compiles its kernels anew for every shape.
"""
LENGTH_STEP = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One lesson as ids: the answer is `ids[start:]`; `pictures` are rows of the step's pictures, in prompt order."""

    kind: str
    ids: tuple[int, ...]
    start: int
    pictures: tuple[int, ...]


def encode_lesson(family: IdeficsFamily, lesson: Lesson, places: Mapping[str, int]) -> Row:
    prompt = lesson.request.prompt
    asked = family.tokenize_prompt(prompt)
    ids = family.tokenize_prompt(prompt, lesson.continuation)
    start = next((i for i, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b), len(asked))
    return Row(lesson.kind, ids, start, tuple(places[source] for source in list_sources(prompt)))


def draw_rows(
    family: IdeficsFamily, scenes: Mapping[int, Scene], picks: Sequence[int], random: Random
) -> list[Row]:
    """The lessons of a step about the picked scenes, as many as the groups take."""
    places = {str(pick): place for place, pick in enumerate(picks)}
    room = {False: GROUPS[0] + GROUPS[1], True: GROUPS[2]}
    rows: list[Row] = []
    for place, pick in cycle(enumerate(picks)):
        others = [*picks[:place], *picks[place + 1 :]]
        row = encode_lesson(family, draw_lesson(random, scenes, pick, others), places)
        has_several = len(row.pictures) > 1
        if room[has_several]:
            room[has_several] -= 1
            rows.append(row)
        elif not any(room.values()):
            break
    return rows


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of similar length and image count as tensors. `answer` marks the positions that predict answer tokens."""

    kinds: tuple[str, ...]
    ids: Tensor
    mask: Tensor
    seen: Tensor
    pictures: Tensor
    answer: Tensor
    weights: Tensor


def group_rows(rows: Sequence[Row], image_id: int) -> list[Group]:
    """One-image rows in two groups by length, rows with several images in one."""
    single = sorted((row for row in rows if len(row.pictures) == 1), key=lambda row: len(row.ids))
    several = [row for row in rows if len(row.pictures) > 1]
    return [_stack(part, image_id) for part in (single[: GROUPS[0]], single[GROUPS[0] :], several)]


def _stack(rows: Sequence[Row], image_id: int) -> Group:
    # Right padding: nothing attends to what comes after it.
    width = -(-max(len(row.ids) for row in rows) // LENGTH_STEP) * LENGTH_STEP
    count = max(len(row.pictures) for row in rows)
    ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.long),
    )
    answer = torch.zeros(len(rows), width, dtype=torch.bool)
    weights = torch.zeros(len(rows), width)
    pictures = torch.zeros(len(rows), count, dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids)
        mask[index, :length] = 1
        answer[index, row.start - 1 : length - 1] = True
        weights[index, row.start - 1 : length - 1] = (length - row.start) ** -0.5
        pictures[index, : len(row.pictures)] = torch.tensor(row.pictures)
    latest = (ids == image_id).cumsum(1) - 1
    seen = F.one_hot(latest.clamp(min=0), count) * (latest >= 0)[..., None]
    return Group(tuple(row.kind for row in rows), ids, mask, seen, pictures, answer, weights)


def measure(
    model: IdeficsForVisionText2Text, pixels: Tensor, groups: Sequence[Group]
) -> tuple[Tensor, dict[str, tuple[int, int]]]:
    """The loss of a step, and per lesson kind how many answers were right token for token, and of how many."""
    tally: dict[str, list[int]] = {}
    losses, total = [], torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16):
        features = model.model.vision_model(pixel_values=pixels).last_hidden_state
        for group in groups:
            hidden = model.model(
                input_ids=group.ids,
                attention_mask=group.mask,
                image_encoder_embeddings=features[group.pictures],
                image_attention_mask=group.seen,
                use_cache=False,
            ).last_hidden_state
            logits = model.lm_head(hidden[group.answer]).float()
            wanted = group.ids.roll(-1, 1)[group.answer]
            weights = group.weights[group.answer]
            losses.append((F.cross_entropy(logits, wanted, reduction="none") * weights).sum())
            total = total + weights.sum()
            wrong = torch.zeros_like(group.answer)
            wrong[group.answer] = logits.argmax(-1) != wanted
            for kind, is_wrong in zip(group.kinds, wrong.any(1).tolist(), strict=True):
                right, asked = tally.setdefault(kind, [0, 0])
                tally[kind] = [right + (not is_wrong), asked + 1]
    return torch.stack(losses).sum() / total, {kind: (right, asked) for kind, (right, asked) in tally.items()}
