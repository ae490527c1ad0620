"""Prompts of architectures that are not split, about the same images: what they begin with is computed once.

The rows continue from copies of its cache, with no padding, as not every state can skip it: as many tokens as every row
has in one pass, then one token of each row at a time; a row whose prompt has ended generates meanwhile.
"""

# transformers is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..lru import LRUCache
from ..models.families.chat_template import ChatTemplateFamily
from ..models.families.family import Encoded
from .architecture_check import ALL, find_tolerance, holds
from .choose import choose
from .generate import Continuation, Generation, is_sampled
from .inputs import to_model
from .running_row import RunningRow

Take = Callable[[Sequence[int], Tensor], Sequence[int | None]]
"""The next token of each of these rows by its logits; None where it has ended."""


@dataclass(frozen=True, slots=True, eq=False)
class WholePrefix:
    """The cache of a prefix, the position of the token after it, and what that token sees of the images."""

    length: int
    cache: Any
    place: Tensor
    seen: dict[str, Tensor]


class WholePrefixes:
    """The prefixes of one model. Whether sharing changes an answer is checked before the first."""

    def __init__(self, model: Any, family: ChatTemplateFamily, store: LRUCache[Any, Any]) -> None:
        self._model = model
        self._family = family
        self._store = store
        self._stride: int | None = None

    def find_key(self, work: Continuation) -> Hashable | None:
        """What a work can share with others: its images and its ids up to the last of them. None if nothing."""
        decoding = work.decoding
        is_shaped = decoding.repetition_penalty != 1.0 or decoding.no_repeat_ngram_size != 0
        if is_shaped or decoding.num_beams > 1 or is_sampled(decoding) or work.constrain is not None:
            return None
        cut = self._family.find_cut(work.encoded)
        return (work.encoded.shown, work.encoded.ids[:cut]) if cut else None

    def may_share(self) -> bool:
        if self._stride is None:
            self._stride = next((one for one in (ALL, 1) if holds(partial(self._looks_alike, one))), 0)
        return self._stride > 0

    def is_kept(self, key: Hashable) -> bool:
        return self._store.find(key) is not None

    @torch.inference_mode()
    def write(self, works: Sequence[Continuation]) -> tuple[list[Generation], list[int]]:
        """Continue prompts with one key; with each, how many of its tokens were shared."""
        first, key = works[0].encoded, self.find_key(works[0])
        prefix: WholePrefix | None = self._store.find(key)
        shared = [0 if prefix is None else prefix.length]
        if prefix is None:
            prefix = self._open(first)
            self._store.keep(key, prefix, _count_bytes(prefix.cache))
        rows = [RunningRow(self._family, work, self._model.device) for work in works]
        banned = torch.tensor(self._family.banned_ids, dtype=torch.long, device=self._model.device)

        def take(places: Sequence[int], logits: Tensor) -> list[int | None]:
            running = [rows[place] for place in places]
            for row, one in zip(running, choose(logits, running, banned), strict=True):
                row.take(one.token, one.logprob, one.is_finite, one.likeliest)
            return [None if row.is_ended else row.last for row in running]

        self._go_on(prefix, [work.encoded for work in works], self._stride or 1, take)
        shared += [prefix.length] * (len(works) - 1)
        return [row.finish() for row in rows], shared

    def _open(self, encoded: Encoded) -> WholePrefix:
        cut = self._family.find_cut(encoded)
        prompt = dict(self._family.begin(encoded, cut).inputs or {})
        cache = self._model(**to_model(self._model, prompt), use_cache=True, logits_to_keep=1).past_key_values
        known = {"attention_mask": torch.ones((1, cut + 1), dtype=torch.long), "past_key_values": cache}
        token = torch.zeros((1, 1), dtype=torch.long)
        places = self._model._prepare_position_ids_for_generation(
            token.to(self._model.device), to_model(self._model, known)
        )
        # What each token of the prompt sees of the images, and so do those after it.
        seen = {name: value[:, -1:] for name, value in prompt.items() if value.ndim > 2 and value.shape[:2] == (1, cut)}
        return WholePrefix(cut, cache, places[..., -1:], seen)

    def _go_on(self, prefix: WholePrefix, prompts: Sequence[Encoded], stride: int, take: Take) -> None:
        """Run the rest of each prompt, then the tokens that are taken, until every row has ended."""
        tails = [list(prompt.ids[prefix.length :]) for prompt in prompts]
        live = list(range(len(tails)))
        cache = copy.deepcopy(prefix.cache)
        cache.reorder_cache(torch.zeros(len(tails), dtype=torch.long, device=self._model.device))
        done, width = 0, min(stride, *map(len, tails))
        while live:
            part = torch.tensor([tails[row][done : done + width] for row in live])
            logits = self._run(prefix, cache, part, done)
            done, width = done + width, 1
            through = [index for index, row in enumerate(live) if done >= len(tails[row])]
            ended = set()
            if through:
                rows = [live[index] for index in through]
                for row, token in zip(rows, take(rows, logits[through]), strict=True):
                    if token is None:
                        ended.add(row)
                    else:
                        tails[row].append(token)
            if ended:
                kept = [index for index, row in enumerate(live) if row not in ended]
                live = [live[index] for index in kept]
                if live:
                    cache.reorder_cache(torch.tensor(kept, device=self._model.device))

    def _run(self, prefix: WholePrefix, cache: Any, part: Tensor, done: int) -> Tensor:
        """The logits after the last of these tokens, which come `done` tokens after the prefix."""
        count, width = part.shape
        places = prefix.place + done + torch.arange(width, device=prefix.place.device)
        inputs = {
            "input_ids": part,
            "attention_mask": torch.ones((count, prefix.length + done + width), dtype=torch.long),
            "position_ids": places.expand(*places.shape[:-2], count, width),
            **{name: value.expand(count, width, *value.shape[2:]) for name, value in prefix.seen.items()},
        }
        given = to_model(self._model, inputs)
        logits: Tensor = self._model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1]

    @torch.inference_mode()
    def _looks_alike(self, stride: int) -> bool:
        """Whether two prompts that share an image get the same logits as alone."""
        rows = self._family.make_probes()
        found: dict[int, Tensor] = {}

        def take(places: Sequence[int], logits: Tensor) -> list[None]:
            found.update(zip(places, logits, strict=True))
            return [None] * len(places)

        self._go_on(self._open(rows[0]), rows, stride, take)
        together = torch.stack([found[place] for place in range(len(rows))]).float()
        alone = [self._model(**to_model(self._model, row.inputs or {}), use_cache=False) for row in rows]
        expected = torch.stack([one.logits[0, -1] for one in alone]).float()
        allowed = find_tolerance(self._model.dtype) * expected.std().clamp(min=1e-6)
        return bool((together - expected).abs().amax() <= allowed)


def _count_bytes(cache: Any) -> int:
    """The bytes of the tensors in a cache of any kind."""
    held = [value for layer in cache.layers for value in vars(layer).values()]
    parts = [one for value in held for one in (value if isinstance(value, list | tuple) else [value])]
    return sum(one.nbytes for one in parts if isinstance(one, Tensor))
