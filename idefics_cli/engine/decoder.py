"""Answers written a token at a time, all rows in one pass; a row that ends leaves, and another one joins.

Knows neither plans nor memory limits. Company never shows in an answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.devices import find_input_device, is_out_of_memory
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from .choose import choose
from .decoder_step import DecoderStep
from .generate import Continuation
from .image_features import Features
from .inputs import lay_rows, place_rows, to_model
from .kv_cache import open_cache
from .prefix_cache import Prefix, Prefixes
from .running_row import RunningRow
from .slot_cache import CachedRow, SlotCache

_MASKED = ("sdpa", "eager")
"""Attentions that take a mask drawn by us; others make their own of which columns are tokens."""


class Decoder:
    """The rows that are being written."""

    def __init__(
        self,
        model: Any,
        family: PlaceholderFamily,
        features: Features,
        prefixes: Prefixes,
        step: DecoderStep | None = None,
    ) -> None:
        self._model = model
        self._family = family
        self._features = features
        self._prefixes = prefixes
        self._step = step
        self._device = find_input_device(model)
        self._cache = SlotCache(
            model.dtype, self._device, getattr(family.text_config, "sliding_window", None)
        )
        self._rows: dict[int, RunningRow] = {}
        self._images: dict[str, Tensor] = {}
        self._open = ExitStack()
        self._is_open = False

    @property
    def rows(self) -> list[RunningRow]:
        """Those that have not ended, the earliest first."""
        return list(self._rows.values())

    @torch.inference_mode()
    def admit(self, works: Sequence[Continuation], prefix: Prefix) -> list[RunningRow]:
        """Begin answers after a prefix that their prompts share. Returns all of them; some may have ended."""
        if not self._is_open:
            self._open.enter_context(self._family.remembering(self._model))
            self._is_open = True
        began = time.perf_counter()
        prompts = [work.encoded for work in works]
        ids, mask = (one.to(self._device) for one in lay_rows(prompts, prefix.length, self._family.pad_id))
        width = ids.shape[1] - prefix.length
        ranges = [TokenRange(prompt, prefix.length, len(prompt.ids)) for prompt in prompts]
        images = self._family.image_inputs(ranges, width, self._features.gather(ranges))
        cache = open_cache(prefix.layers, len(works))
        logits = self._model(
            input_ids=ids[:, prefix.length :],
            attention_mask=mask,
            position_ids=place_rows(self._family, prompts, prefix.length, mask)[..., prefix.length :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **to_model(self._model, self._family.for_forward(images)),
        ).logits[:, -1]
        rows = [RunningRow(self._family, work, logits.device) for work in works]
        self._take(logits, rows)
        staying = [place for place, row in enumerate(rows) if not row.is_ended or row.work.cache_answer]
        if staying:
            cached = [
                CachedRow(
                    place,
                    prefix.length,
                    len(prompts[place].ids),
                    self._family.count_skipped(prompts[place]),
                )
                for place in staying
            ]
            slots = self._cache.join(cache, cached)
            self._join_images(
                slots, staying, to_model(self._model, self._family.last_image_inputs(images, 1))
            )
            self._rows |= {slot: rows[place] for slot, place in zip(slots, staying, strict=True)}
        self._share(began, rows)
        self._drop_ended()
        return rows

    @torch.inference_mode()
    def step(self) -> list[RunningRow]:
        """One token for each row. Returns those that end with it."""
        began = time.perf_counter()
        rows = self.rows
        if 2 * len(rows) <= self._cache.slots:
            self._shrink()
        logits = self._run_step()
        self._cache.end_step()
        self._take(logits[list(self._rows)], rows)
        self._share(began, rows)
        self._drop_ended()
        return [row for row in rows if row.is_ended]

    def _run_step(self) -> Tensor:
        """The logits of each slot after its last token."""
        mask, positions = self._cache.begin_step()
        tokens = torch.full((self._cache.slots, 1), self._family.pad_id, dtype=torch.long)
        for slot, row in self._rows.items():
            tokens[slot] = row.last
        tokens = tokens.to(self._device)
        if self._step is not None:
            place = torch.tensor([self._cache.position], device=self._device)
            return self._step.run(tokens, positions, mask, self._cache.buffers, place, self._images)
        logits: Tensor = self._model(
            input_ids=tokens,
            attention_mask=self._fit_mask(mask),
            position_ids=positions,
            past_key_values=self._cache.open_cache(),
            use_cache=True,
            **self._family.for_forward(self._images),
        ).logits[:, -1]
        return logits

    def evict(self, row: RunningRow) -> None:
        """Let go of a row that has not ended."""
        (slot,) = (slot for slot, other in self._rows.items() if other is row)
        self._leave(slot)
        self._rest()

    def close(self) -> None:
        """Let go of all rows."""
        for slot in list(self._rows):
            self._leave(slot)
        self._rest()

    def _take(self, logits: Tensor, rows: Sequence[RunningRow]) -> None:
        for row, chosen in zip(rows, choose(logits, rows, self._family.banned_ids), strict=True):
            row.take(chosen.token, chosen.logprob, chosen.is_finite)

    def _share(self, began: float, rows: Sequence[RunningRow]) -> None:
        seconds = (time.perf_counter() - began) / len(rows)
        for row in rows:
            row.seconds += seconds

    def _drop_ended(self) -> None:
        for slot, row in list(self._rows.items()):
            if row.is_ended:
                if row.work.cache_answer:
                    self._keep_answer(slot, row)
                self._leave(slot)
        self._rest()

    def _leave(self, slot: int) -> None:
        del self._rows[slot]
        self._cache.leave(slot)

    def _rest(self) -> None:
        """Hold nothing while there are no rows."""
        if not self._rows:
            self._shrink()
            self._open.close()
            self._is_open = False

    def _shrink(self) -> None:
        kept = self._cache.shrink()
        places = {slot: place for place, slot in enumerate(kept)}
        self._rows = {places[slot]: row for slot, row in self._rows.items()}
        self._images = {name: value[kept] for name, value in self._images.items()} if kept else {}

    def _join_images(self, slots: Sequence[int], places: Sequence[int], given: Mapping[str, Any]) -> None:
        """What the last tokens see, beside what those of other rows see. Made afresh, as it is known by its place."""
        if len(places) == self._cache.slots and list(places) == list(range(len(places))):
            self._images = {name: value[: len(places)] for name, value in given.items()}
            return
        for name, value in given.items():
            new = value[list(places)]
            former = self._images.get(name, new[:0])
            # Where no row has an image there is one of a single patch, which nobody sees.
            sizes = [max(pair) for pair in zip(former.shape[1:], new.shape[1:], strict=True)]
            joined = new.new_zeros((self._cache.slots, *sizes))
            joined[: len(former)] = _pad_to(former, sizes)
            joined[slots] = _pad_to(new, sizes)
            self._images[name] = joined

    def _fit_mask(self, mask: Tensor) -> Tensor:
        if self._model.config._attn_implementation in _MASKED:
            return mask
        return (mask[:, 0, 0] == 0).long()

    def _keep_answer(self, slot: int, row: RunningRow) -> None:
        """Keep what was computed for an answer that prompts will go on from; its last token was never run."""
        asked = self._family.list_units(row.work.encoded)
        run = self._cache.count_tokens(slot) - len(row.work.encoded.ids)
        units = (*asked, *(("", (index,)) for index in row.ids[:run]))
        try:
            self._prefixes.keep_answer(units, len(asked), self._cache.read_row(slot))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise


def _pad_to(value: Tensor, sizes: Sequence[int]) -> Tensor:
    missing = [size - own for size, own in zip(sizes, value.shape[1:], strict=True)]
    return pad(value, [part for size in reversed(missing) for part in (0, size)]) if any(missing) else value
