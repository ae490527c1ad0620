"""Prompts of architectures that are not split: whole, in batches padded on the left.

Prompts about the same images share the computation up to the last image. Whether padding changes the answers of an
unknown architecture is checked once, before the first batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..lru import LRUCache
from ..models.families.chat_template import ChatTemplateFamily
from ..models.families.family import Encoded, Family
from .architecture_check import holds
from .batch_room import BatchRoom
from .batching import Batch
from .generate import Continuation, Generation, batch_key, generate
from .inputs import to_model
from .label_scoring import Ranking
from .whole_labels import WholeLabels
from .whole_prefix import WholePrefixes

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""How far the logits of a row may move in a batch, of the spread that they have: numbers of 16 bits round so far."""


class WholePrompts:
    """Runs one model's prompts in batches, or one at a time where a batch would change an answer."""

    def __init__(self, model: Any, family: Family, room: BatchRoom, store: LRUCache[Any, Any]) -> None:
        self._model = model
        self._family = family
        self._room = room
        self._are_batched: bool | None = None if family.has_batches else False
        templated = cast(ChatTemplateFamily, family)
        self._labels = WholeLabels(model, templated, room, self._may_batch)
        self._prefixes = WholePrefixes(model, templated, store)

    def plan(self, works: Sequence[Continuation | Ranking], rows: int) -> list[Batch]:
        """Batches of prompts about the same images or with the same decoding, those of similar length first; labels by
        themselves."""
        continued = {index: work for index, work in enumerate(works) if isinstance(work, Continuation)}
        shares = {index: self._prefixes.find_key(work) for index, work in continued.items()}
        often = {key for key, count in Counter(shares.values()).items() if count > 1 and key is not None}
        often = often if often and self._prefixes.may_share() else set()
        groups: dict[Hashable, list[int]] = {}
        for index in range(len(works)):
            if (work := continued.get(index)) is None:
                key: Hashable = index
            elif shares[index] in often:
                key = batch_key(work), shares[index]
            else:
                key = batch_key(work), _name_shapes(work.encoded)
            groups.setdefault(key, []).append(index)
        batches: list[Batch] = []
        for group in groups.values():
            group.sort(key=lambda index: -len(works[index].encoded.ids))
            size = min(rows, max(1, self._room.tokens // self._count_tokens(works[group[0]])))
            if shares.get(group[0]) not in often:
                size = size if len(group) > 1 and size > 1 and self._may_batch() else 1
            batches += [Batch(tuple(group[first : first + size])) for first in range(0, len(group), size)]
        return batches

    def write(self, works: Sequence[Continuation]) -> tuple[list[Generation], list[int]]:
        """Continue prompts with the same decoding; with each, how many of its tokens were shared."""
        first = works[0]
        key, *others = {self._prefixes.find_key(work) for work in works}
        is_shared = key is not None and not others and (len(works) > 1 or self._prefixes.is_kept(key))
        if is_shared and self._prefixes.may_share():
            return self._prefixes.write(works)
        prompts = [work.encoded for work in works]
        inputs = to_model(self._model, self._family.collate(prompts))
        listeners = [work.listener for work in works]
        made = generate(
            self._model,
            self._family,
            prompts,
            first.decoding,
            inputs,
            listeners,
            first.constrain,
            first.likeliest,
        )
        return made, [0] * len(works)

    def rank(self, work: Ranking) -> list[float]:
        """The score of each label."""
        return self._labels.score(work)

    def _count_tokens(self, work: Continuation | Ranking) -> int:
        new = work.decoding.max_new_tokens * work.decoding.num_beams if isinstance(work, Continuation) else 0
        return len(work.encoded.ids) + new

    def _may_batch(self) -> bool:
        if self._are_batched is None:
            self._are_batched = holds(self._looks_alike)
            if not self._are_batched:
                log.warning(
                    "%s answers differently in a batch, so its requests are run one by one",
                    self._family.config.model_type,
                )
        return self._are_batched

    @torch.inference_mode()
    def _looks_alike(self) -> bool:
        """Whether a prompt has the same logits beside a longer one."""
        rows = self._family.make_probes()
        together = self._read_logits(rows)
        alone = torch.cat([self._read_logits([row]) for row in rows])
        moved = (together - alone).abs().amax()
        return bool(moved <= TOLERANCE * alone.std().clamp(min=1e-6))

    def _read_logits(self, rows: Sequence[Encoded]) -> Tensor:
        inputs = to_model(self._model, self._family.collate(rows))
        config = {"use_cache": False, "logits_to_keep": 1}
        logits: Tensor = self._model(**inputs, **config).logits[:, -1].float()
        return logits


def _name_shapes(encoded: Encoded) -> Hashable:
    """The shapes of tensors; those of equal shapes can be joined."""
    length = len(encoded.ids)
    return tuple(
        (name, value.ndim, tuple(size for size in value.shape[1:] if size != length))
        for name, value in sorted((encoded.inputs or {}).items())
        if name not in ("input_ids", "attention_mask")
    )
