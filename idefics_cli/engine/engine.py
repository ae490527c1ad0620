"""The only way to the model: plans which requests run together, runs them, and keeps what others can reuse.

A request here is an encoded prompt with a decoding or labels. Sharing, caching and packing never change an answer.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from ..lru import LRUCache
from ..models.devices import count_free_bytes, find_input_device
from ..models.families.family import Encoded, Family
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from ..models.memory.gauge import Gauge, open_gauge
from ..values import Decoding
from .batch_room import BatchRoom
from .batching import Batch, BatchLimits, PlannedRow, plan
from .decoder import Decoder, Pace
from .decoder_step import DecoderStep
from .generate import Continuation, Generation, batch_key, generate
from .image_features import Features
from .inputs import lay_rows, place_rows, to_model
from .kv_cache import open_cache
from .label_scoring import (
    LOGITS_AT_ONCE,
    ROW_TOKENS,
    Ranking,
    count_label_tokens,
    score_packed,
)
from .masks import mask_prompts
from .planned import Planned, list_waiting
from .prefix_cache import Prefix, Prefixes, PrefixUnits
from .short_prefixes import drop_short_prefixes
from .step_graph import StepGraphs
from .vision_ahead import VisionPace
from .whole_prompts import WholePrompts

Work = Continuation | Ranking

CACHE_SHARE = {"cpu": 1 / 8, "cuda": 1 / 4}
"""The part of the free memory that keeps prefixes and features, where nobody said how much."""
PASS_TOKENS = {"cpu": 16, "cuda": 256}
"""What a pass costs besides its tokens, in tokens: the weights are read once whatever is computed."""
MOST_ROWS = {"cpu": 32, "cuda": 256}
"""Where nobody said how many: more gain next to nothing, and the memory of their tokens is bounded besides."""
RECENT_PROMPTS = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A generation, or the scores of labels in their order, and how many tokens came from a prefix."""

    generation: Generation | None
    scores: tuple[float, ...]
    shared_tokens: int = 0

    @property
    def is_finite(self) -> bool:
        """Whether the model computed finite numbers."""
        is_finite = self.generation is None or self.generation.is_finite
        return is_finite and all(map(math.isfinite, self.scores))


class Engine:
    """Answers encoded requests with one model."""

    def __init__(
        self,
        model: Any,
        family: Family,
        *,
        cache_bytes: int | None = None,
        pace: Pace | None = None,
        vision_pace: VisionPace | None = None,
        compiles: bool = False,
        gauge: Gauge | None = None,
    ) -> None:
        self._model = model
        self._pace = pace
        self._family = family
        self._device = find_input_device(model)
        gauge = gauge or open_gauge(model)
        free = count_free_bytes(self._device) if gauge is None else gauge.count_free()
        kind = self._device.type if self._device.type in CACHE_SHARE else "cpu"
        share = CACHE_SHARE[kind]
        self._store: LRUCache[Any, Any] = LRUCache(int(free * share) if cache_bytes is None else cache_bytes)
        self._pass_tokens = PASS_TOKENS[kind]
        self.most_rows = MOST_ROWS[kind]
        self._step = DecoderStep.open(model, family, compiles=compiles)
        if compiles and self._step is None:
            log.warning("--compile changes nothing: %s is run by its own forward", family.config.model_type)
        self._graphs = StepGraphs(self._device)
        self.room = BatchRoom(model, family, free, self._store, gauge)
        self._recent: deque[PrefixUnits] = deque(maxlen=RECENT_PROMPTS)
        self._whole = WholePrompts(model, family, self.room, self._store)
        if family.has_prefixes:
            marked = cast(PlaceholderFamily, family)
            self._marked: PlaceholderFamily | None = marked
            self._features = Features(model, marked, self._store, vision_pace)
            self._prefixes = Prefixes(model, marked, self._features, self._store)
        else:
            self._marked = None

    def expect(self, waiting: Callable[[], Iterable[Planned]] | None) -> None:
        """Look ahead among what waits from now on, to fill up passes of the vision tower."""
        if (family := self._marked) is not None:
            self._features.ahead.expect(
                None if waiting is None else lambda: list_waiting(family, self._prefixes, waiting())
            )

    def plan(self, works: Sequence[Work], *, rows: int) -> list[Batch]:
        """Batches of at most so many of these, by index, to be run in this order."""
        if self._marked is None:
            return self._whole.plan(works, rows)
        planned = [self._describe(self._marked, work) for work in works]
        prompts = [row.units for row in planned]
        limits = BatchLimits(
            rows,
            self.room.tokens,
            self._pass_tokens,
            getattr(self._family.text_config, "sliding_window", None),
        )
        batches = plan(planned, limits, cached=self._prefixes.list_kept(prompts), recent=list(self._recent))
        self._recent.extend(dict.fromkeys(prompts[-RECENT_PROMPTS:]))
        if self._marked.sees_ahead:
            return batches
        return drop_short_prefixes(batches, planned, self._family.text_config.hidden_size)

    @torch.inference_mode()
    def run(
        self,
        works: Sequence[Work],
        cuts: Sequence[int] = (),
        *,
        row_tokens: int = ROW_TOKENS,
    ) -> list[Outcome]:
        """Answer the requests of one batch, in order. They continue from the prefix with these cuts."""
        if (family := self._marked) is None:
            return self._run_whole(works)
        with nullcontext() if self.joins(works[0]) else family.remembering(self._model):
            first = works[0]
            prefix = self._prefixes.compute(first.encoded, family.list_units(first.encoded), cuts)
            shared = [prefix.reused, *([prefix.length] * (len(works) - 1))]
            prompts = [work.encoded for work in works]
            if isinstance(first, Ranking):
                scores = score_packed(self._model, family, prompts, first.labels, prefix, self._features, row_tokens)
                return [Outcome(None, tuple(own), count) for own, count in zip(scores, shared, strict=True)]
            if first.decoding.max_new_tokens < 1:
                return [Outcome(Generation("", 0, "length"), ())] * len(works)
            continuations = [work for work in works if isinstance(work, Continuation)]
            if self.joins(first):
                generations = self._write(continuations, prefix)
            else:
                inputs = self._begin(family, prompts, prefix, first.decoding)
                listeners = [work.listener for work in continuations]
                generations = generate(
                    self._model,
                    family,
                    prompts,
                    first.decoding,
                    inputs,
                    listeners,
                    first.constrain,
                    first.likeliest,
                )
            return [Outcome(made, (), count) for made, count in zip(generations, shared, strict=True)]

    def free(self) -> None:
        """Drop everything that can be computed again."""
        self.room.forget()
        self._store.clear()
        self._graphs.clear()
        if self._marked is not None:
            self._features.ahead.rest()

    def measure(self) -> dict[str, int]:
        """How often features of images and prefixes were found (hits) or not (misses), the bytes that they hold, and
        how often a recorded step was replayed.
        """
        counts = {"cache_bytes": self._store.used_bytes, "device_bytes": 0, "replays": self._graphs.replays}
        if self._model.device.type == "cuda":
            counts["device_bytes"] = torch.cuda.memory_allocated(self._model.device)
        for name, memory in (("image", self._features), ("prefix", self._prefixes)) if self._marked else ():
            counts |= {f"{name}_hits": memory.hits, f"{name}_misses": memory.misses}
        return counts

    def limit_cache(self, cache_bytes: int) -> None:
        self._store.shrink(cache_bytes)

    def open_decoder(self) -> Decoder:
        """The decoder of a family that `has_slots`."""
        assert self._marked is not None
        return Decoder(self._model, self._marked, self._features, self._prefixes, self._step, self._graphs, self._pace)

    @torch.inference_mode()
    def open_prefix(self, work: Work, cuts: Sequence[int]) -> Prefix:
        """The shared prefix of a prompt, up to the last cut."""
        assert self._marked is not None
        return self._prefixes.compute(work.encoded, self._marked.list_units(work.encoded), cuts)

    @property
    def has_slots(self) -> bool:
        return self._marked is not None and self._marked.has_slots

    def count_room(self, running: Sequence[Work], work: Work, rows: int) -> int:
        """How many rows like this one may join the running ones, at most the given number."""
        reach = max(len(one.encoded.ids) + _count_new_tokens(one) for one in (*running, work))
        return max(0, min(rows, self.room.tokens // reach) - len(running))

    def joins(self, work: Work) -> bool:
        """Whether a request is generated in a slot beside others; beams and labels have batches of their own."""
        return (
            isinstance(work, Continuation)
            and self.has_slots
            and work.decoding.num_beams == 1
            and work.decoding.max_new_tokens > 0
        )

    def _write(self, works: Sequence[Continuation], prefix: Prefix) -> list[Generation]:
        """Generate for rows with the same prefix until the longest ends."""
        decoder = self.open_decoder()
        try:
            rows = decoder.admit(works, prefix)
            while decoder.rows:
                decoder.step()
        finally:
            decoder.close()
        return [row.finish() for row in rows]

    def _begin(
        self, family: PlaceholderFamily, prompts: Sequence[Encoded], prefix: Prefix, decoding: Decoding
    ) -> dict[str, Any]:
        """The inputs of `generate` for prompts whose prefix is in the cache."""
        ids, mask = (one.to(self._device) for one in lay_rows(prompts, prefix.length, family.pad_id))
        width = ids.shape[1] - prefix.length
        token_ranges = [TokenRange(prompt, prefix.length, len(prompt.ids)) for prompt in prompts]
        features = self._features.gather(token_ranges)
        images = family.image_inputs(token_ranges, width, features)
        cache = open_cache(prefix.layers, len(prompts))
        positions = place_rows(family, prompts, prefix.length, mask)
        if decoding.num_beams > 1:
            # The beams part at the first new token: all before it is run once, not once a beam.
            if width > 1:
                begun = [TokenRange(_leave_last(one.encoded), one.start, one.stop - 1) for one in token_ranges]
                head = family.for_forward(family.image_inputs(begun, width - 1, features))
                self._model(
                    input_ids=ids[:, prefix.length : -1],
                    attention_mask=mask_prompts(
                        self._model,
                        family,
                        [one.encoded for one in begun],
                        prefix.length,
                        mask[:, :-1],
                        width - 1,
                    ),
                    position_ids=positions[..., prefix.length : -1],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                    **to_model(self._model, head),
                )
                images = family.last_image_inputs(images, 1)
            cache.batch_repeat_interleave(decoding.num_beams)
        # Where positions count the tokens, `generate` counts them itself.
        placed = {} if positions.ndim == mask.ndim else {"position_ids": positions}
        return {
            "input_ids": ids,
            "attention_mask": mask,
            **placed,
            "past_key_values": cache,
            **to_model(self._model, images),
        }

    def _describe(self, family: PlaceholderFamily, work: Work) -> PlannedRow:
        units = family.list_units(work.encoded)
        if isinstance(work, Ranking):
            tokens = count_label_tokens(work.labels)
            limit = max(1, LOGITS_AT_ONCE // (tokens + 1))
            return PlannedRow(units, ("rank", work.labels), labels=tokens, limit=limit)
        key = "slots" if self.joins(work) else batch_key(work)
        return PlannedRow(units, key, steps=work.decoding.max_new_tokens, beams=work.decoding.num_beams)

    def _run_whole(self, works: Sequence[Work]) -> list[Outcome]:
        """Whole prompts, for a family that does not share prefixes."""
        first = works[0]
        if isinstance(first, Ranking):
            scores = [self._whole.rank(work) for work in works if isinstance(work, Ranking)]
            return [Outcome(None, tuple(own)) for own in scores]
        if first.decoding.max_new_tokens < 1:
            return [Outcome(Generation("", 0, "length"), ())] * len(works)
        continuations = [work for work in works if isinstance(work, Continuation)]
        self.room.forget()
        generations, shared = self._whole.write(continuations)
        longest = max(len(work.encoded.ids) for work in works)
        reach = longest + max(made.new_tokens for made in generations)
        run = 0 if any(shared) else len(works) * longest
        self.room.join(run, len(works) * first.decoding.num_beams * reach)
        return [Outcome(made, (), count) for made, count in zip(generations, shared, strict=True)]


def _leave_last(encoded: Encoded) -> Encoded:
    return replace(encoded, ids=encoded.ids[:-1])


def _count_new_tokens(work: Work) -> int:
    return work.decoding.max_new_tokens if isinstance(work, Continuation) else 0
