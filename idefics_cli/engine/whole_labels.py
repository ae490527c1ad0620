"""Labels of architectures whose prompts are not split: the prompt runs once, and all labels continue from its cache.

Whether an architecture continues from its cache correctly is checked with its first labels; if not, they run as whole
rows, together or one by one.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..models.families.chat_template import ChatTemplateFamily
from ..models.families.family import Encoded
from .architecture_check import ALL, find_tolerance, holds
from .batch_room import BatchRoom
from .inputs import to_model
from .label_scoring import Ranking

T = TypeVar("T")


class WholeLabels:
    """Scores the labels of one model's prompts."""

    def __init__(self, model: Any, family: ChatTemplateFamily, room: BatchRoom, may_batch: Callable[[], bool]) -> None:
        self._model = model
        self._family = family
        self._room = room
        self._may_batch = may_batch
        self._stride: int | None = None

    @torch.inference_mode()
    def score(self, ranking: Ranking) -> list[float]:
        """The log-probability of each label. Equal labels get equal scores."""
        rows = list({row.ids: row for row in ranking.rows}.values())
        start = len(ranking.encoded.ids)
        if self._stride is None:
            self._stride = self._find_stride(rows, start)
        stride = self._stride
        scores = self._go_on(rows, start, stride) if stride else self._run_rows(rows, start)
        known = {row.ids: score for row, score in zip(rows, scores, strict=True)}
        return [known[row.ids] for row in ranking.rows]

    def _find_stride(self, rows: Sequence[Encoded], start: int) -> int:
        """How many tokens at a time change no score: all of a label, or one as in answers; 0 for neither."""
        longest = sorted(rows, key=lambda row: len(row.ids))[-2:]
        alone = [self._run_row([row], start)[0] for row in longest]
        moved = find_tolerance(self._model.dtype)

        def looks_alike(stride: int) -> bool:
            pairs = zip(self._go_on(longest, start, stride), alone, strict=True)
            return all(math.isclose(one, other, rel_tol=moved, abs_tol=moved) for one, other in pairs)

        return next((stride for stride in (ALL, 1) if holds(partial(looks_alike, stride))), 0)

    def _go_on(self, rows: Sequence[Encoded], start: int, stride: int) -> list[float]:
        """Continue from the cache of the prompt. Padding stands after the labels, where no label sees it."""
        prompt = dict(self._family.begin(rows[0], start).inputs or {})
        begun = self._model(**to_model(self._model, prompt), use_cache=True, logits_to_keep=1)
        first = begun.logits[:, -1:]
        longest = max(len(row.ids) for row in rows)
        scores: list[float] = []
        for some in _divide(rows, self._room.tokens // longest):
            tails = [row.ids[start:] for row in some]
            width = max(len(tail) for tail in tails) - 1
            ids = torch.full((len(some), width), self._family.pad_id, dtype=torch.long)
            mask = torch.ones((len(some), start + width), dtype=torch.long)
            for place, tail in enumerate(tails):
                ids[place, : len(tail) - 1] = torch.tensor(tail[:-1])
                mask[place, start + len(tail) - 1 :] = 0
            cache = copy.deepcopy(begun.past_key_values)
            cache.reorder_cache(first.new_zeros(len(some), dtype=torch.long))
            parts = [first.expand(len(some), -1, -1)]
            for begin in range(0, width, stride):
                part = ids[:, begin : begin + stride]
                # What each token of the prompt sees of the images, and so do those after it.
                seen = {
                    name: value[:, -1:].expand(*part.shape, *value.shape[2:])
                    for name, value in prompt.items()
                    if value.ndim > 2 and value.shape[:2] == (1, start)
                }
                visible = mask[:, : start + begin + part.shape[1]]
                inputs = to_model(self._model, {"input_ids": part, "attention_mask": visible, **seen})
                places = self._model._prepare_position_ids_for_generation(
                    inputs["input_ids"],
                    {"attention_mask": inputs["attention_mask"], "past_key_values": cache},
                )
                inputs["position_ids"] = places[..., -part.shape[1] :]
                more = self._model(**inputs, past_key_values=cache, use_cache=True)
                parts.append(more.logits)
            logits = torch.cat(parts, dim=1)
            scores += [_sum_up(own[: len(tail)], tail) for own, tail in zip(logits, tails, strict=True)]
        return scores

    def _run_rows(self, rows: Sequence[Encoded], start: int) -> list[float]:
        """Whole rows, those of similar length together."""
        size = max(1, self._room.tokens // max(len(row.ids) for row in rows))
        size = size if len(rows) > 1 and size > 1 and self._may_batch() else 1
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        found = {
            index: score
            for some in _divide(order, size)
            for index, score in zip(some, self._run_row([rows[one] for one in some], start), strict=True)
        }
        return [found[index] for index in range(len(rows))]

    def _run_row(self, rows: Sequence[Encoded], start: int) -> list[float]:
        inputs = to_model(self._model, self._family.collate(rows))
        logits = self._model(**inputs, use_cache=False).logits
        scores = []
        for own, row in zip(logits, rows, strict=True):
            tail = row.ids[start:]
            scores.append(_sum_up(own[-len(tail) - 1 : -1], tail))
        return scores


def _divide(things: Sequence[T], size: int) -> list[Sequence[T]]:
    size = max(1, size)
    return [things[first : first + size] for first in range(0, len(things), size)]


def _sum_up(logits: Tensor, tail: Sequence[int]) -> float:
    """The log-probability of tokens, each from the logits before it."""
    targets = torch.tensor(tail, device=logits.device)
    logprobs = torch.log_softmax(logits.float(), dim=-1).gather(-1, targets[:, None])
    return math.fsum(logprobs[:, 0].tolist())
