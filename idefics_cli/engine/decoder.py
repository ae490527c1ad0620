"""Answers generated a token at a time, all rows in one pass; a row that ends leaves, and another one joins.

A step reads nothing back to the host: tokens are chosen on the device, and read after several steps. Tokens that a row
generated after its end are dropped. This module knows neither plans nor memory limits. Other rows never change an
answer.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.devices import find_input_device, is_out_of_memory
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from .choose import ChosenToken, Draws, ban, choose, is_guided, list_draws, pick, read_chosen
from .cross_attention import SlotImages
from .decoder_step import DecoderStep
from .drafts import run_drafts
from .generate import Continuation
from .image_features import Features
from .inputs import join_slots, lay_rows, place_rows, to_model
from .kv_cache import open_cache
from .masks import Mask, list_windows, mask_prompts
from .prefix_cache import Prefix, Prefixes
from .running_row import RunningRow
from .slot_cache import CachedRow, SlotCache
from .slot_state import SlotState
from .step_graph import StepGraphs

_MASKED = ("sdpa", "eager")
"""Attentions that take a mask drawn by us; others make their own of which columns are tokens."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many steps run before tokens are read, and whether the number of slots is rounded up."""

    steps: int
    rounds_slots: bool


PACES = {"cpu": Pace(1, False), "cuda": Pace(8, True)}
"""A CPU knows its tokens at once, and each slot costs it time."""


class Decoder:
    """The rows that are being generated."""

    def __init__(
        self,
        model: Any,
        family: PlaceholderFamily,
        features: Features,
        prefixes: Prefixes,
        step: DecoderStep | None = None,
        graphs: StepGraphs | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._model = model
        self._family = family
        self._features = features
        self._prefixes = prefixes
        self._step = step
        self._device = find_input_device(model)
        self._graphs = graphs or StepGraphs(self._device)
        self._pace = pace or PACES.get(self._device.type, PACES["cpu"])
        self._state = SlotState(model.dtype, self._device, list_windows(family))
        self._cache = SlotCache(self._state, rounds_slots=self._pace.rounds_slots)
        self._rows: dict[int, RunningRow] = {}
        self._images: dict[str, Tensor] = {}
        self._seen = SlotImages()
        self._draws: Draws | None = None
        self._banned: Tensor | None = None
        self._width = 0
        self._broken: set[int] = set()
        """Slots that hold what is no numbers."""
        self._open = ExitStack()
        self._is_open = False

    @property
    def rows(self) -> list[RunningRow]:
        """Those that have not ended, the earliest first."""
        return list(self._rows.values())

    @torch.inference_mode()
    def admit(self, works: Sequence[Continuation], prefix: Prefix) -> list[RunningRow]:
        """Start answers after a prefix that their prompts share. Returns all of them; some may have ended already."""
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
            attention_mask=mask_prompts(self._model, self._family, prompts, prefix.length, mask, width),
            position_ids=place_rows(self._family, prompts, prefix.length, mask)[..., prefix.length :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **to_model(self._model, self._family.for_forward(images)),
        ).logits[:, -1]
        self._width = logits.shape[-1]
        if self._banned is None and self._family.banned_ids:
            self._banned = torch.tensor(list(self._family.banned_ids), device=logits.device)
        last = self._family.last_image_inputs(images, 1)
        rows = [RunningRow(self._family, work, logits.device) for work in works]
        for place, row in enumerate(rows):
            row.images = {name: value[place : place + 1] for name, value in last.items()}
        for row, chosen in zip(rows, choose(logits, rows, self._banned), strict=True):
            row.take(chosen.token, chosen.logprob, chosen.is_finite, chosen.likeliest)
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
            try:
                self._join_images(slots, staying, last)
            except BaseException:
                for slot in slots:
                    self._cache.leave(slot)
                raise
            self._rows |= {slot: rows[place] for slot, place in zip(slots, staying, strict=True)}
            self._broken |= {slot for slot in slots if not self._rows[slot].is_finite}
            self._resume()
        self._share(began, rows)
        self._drop_ended()
        return rows

    @torch.inference_mode()
    def step(self) -> list[RunningRow]:
        """Generate a token for each row, or several if no listener waits. Returns the rows that end with them."""
        began = time.perf_counter()
        rows = self.rows
        if self._cache.count_slots(2 * len(rows)) <= self._cache.slots:
            self._shrink()
        is_led = any(is_guided(row) for row in rows)
        if is_led and self._run_drafts() and not self._rows:
            self._share(began, rows)
            return rows
        states = [] if self._draws is None else self._draws.read_generators()
        told: list[Tensor] = []
        done, count = 0, 1 if is_led else self._count_ahead(rows)
        try:
            while done < count:
                self._cache.begin_step()
                told.append(self._run_step() if is_led else self._run_alone())
                self._cache.end_step()
                done += 1
        except BaseException:
            # The steps that went well are done again as well: no listener was given them.
            self._cache.rewind(done)
            self._resume()
            if self._draws is not None:
                self._draws.set_generators(states)
            raise
        if is_led:
            self._take(list(self._rows), choose(told[0][list(self._rows)], self.rows, self._banned))
            self._state.end(self._state.tokens[:, 0])
            self._write_tokens()
        else:
            for each in torch.stack(told).tolist():
                self._take(range(self._cache.slots), read_chosen(each))
        self._share(began, rows)
        self._drop_ended()
        return [row for row in rows if row.is_ended]

    def _run_drafts(self) -> bool:
        """Whether several tokens of some rows were run in one pass. It may end rows."""
        has_run = True
        try:
            has_run = run_drafts(self._model, self._family, self._cache, self._rows, self._banned)
        finally:
            if has_run:
                self._broken |= {slot for slot, row in self._rows.items() if not row.is_finite}
                self._resume()
        if has_run:
            self._drop_ended()
        return has_run

    def _count_ahead(self, rows: Sequence[RunningRow]) -> int:
        """The steps until tokens are read: 1 if a listener waits for each token."""
        if any(row.streams for row in rows):
            return 1
        return min(self._pace.steps, max(row.count_left() for row in rows))

    def _run_alone(self) -> Tensor:
        """A step without the host; returns the chosen tokens as tensors."""
        if self._draws is not None:
            self._draws.renew()
        if self._step is None:  # What the model's own forward asks of the host is not known.
            return self._advance()
        return self._graphs.run(self._name_step(), self._advance).clone()

    def _advance(self) -> Tensor:
        scores = ban(self._run_step(), self._banned)
        tokens, told = pick(scores, scores, self._draws)
        self._state.end(tokens.to(self._device))
        return told

    def _run_step(self) -> Tensor:
        """The logits of each slot after its last token."""
        self._state.begin()
        if self._step is not None:
            return self._step.run(self._state, self._cache.buffers, self._seen.view(self._cache.slots))
        logits: Tensor = self._model(
            input_ids=self._state.tokens,
            attention_mask=self._fit_masks(),
            position_ids=self._state.positions,
            past_key_values=self._cache.open_cache(),
            use_cache=True,
            **self._family.for_forward(self._images),
        ).logits[:, -1]
        return logits

    def _name_step(self) -> Hashable:
        """The key of a step: its shapes and addresses."""
        versions = (self._cache.version, self._state.version, self._seen.version)
        return id(self), tuple(self._state.mask.shape), versions, self._draws

    def evict(self, row: RunningRow) -> None:
        """Remove a row that has not ended, and free its memory."""
        (slot,) = (slot for slot, other in self._rows.items() if other is row)
        self._leave(slot)
        self._cache.trim()
        self._rest()

    def close(self) -> None:
        """Remove all rows."""
        for slot in list(self._rows):
            self._leave(slot)
        self._rest()

    def _take(self, slots: Iterable[int], chosen: Sequence[ChosenToken]) -> None:
        for slot, one in zip(slots, chosen, strict=True):
            if slot in self._rows and not self._rows[slot].is_ended:
                self._rows[slot].take(one.token, one.logprob, one.is_finite, one.likeliest)
            if not one.is_finite:
                self._broken.add(slot)

    def _share(self, began: float, rows: Sequence[RunningRow]) -> None:
        seconds = (time.perf_counter() - began) / len(rows)
        for row in rows:
            row.seconds += seconds

    def _drop_ended(self) -> None:
        ended = [slot for slot, row in self._rows.items() if row.is_ended]
        for slot in ended:
            if self._rows[slot].work.cache_answer:
                self._keep_answer(slot, self._rows[slot])
            self._leave(slot)
        if ended and self._draws is not None:
            self._list_draws()
        self._rest()

    def _leave(self, slot: int) -> None:
        del self._rows[slot]
        self._cache.leave(slot, is_finite=slot not in self._broken)
        self._broken.discard(slot)

    def _rest(self) -> None:
        """Free the buffers while there are no rows."""
        if not self._rows:
            self._shrink()
            self._graphs.clear()
            self._open.close()
            self._is_open = False

    def _shrink(self) -> None:
        kept = self._cache.shrink()
        places = {slot: place for place, slot in enumerate(kept)}
        self._rows = {places[slot]: row for slot, row in self._rows.items()}
        self._broken.clear()
        self._seen.keep(kept)
        missing = self._cache.slots - len(kept)
        self._images = {
            name: pad(value[kept], [0, 0] * (value.ndim - 1) + [0, missing])
            for name, value in self._images.items()
            if kept
        }
        if kept:
            self._resume()

    def _resume(self) -> None:
        """Tell the device the last token of each row."""
        self._write_tokens()
        self._list_draws()

    def _write_tokens(self) -> None:
        self._state.write({slot: row.last for slot, row in self._rows.items()})

    def _list_draws(self) -> None:
        self._draws = list_draws(list(self._rows.items()), self._width)

    def _join_images(self, slots: Sequence[int], places: Sequence[int], given: Mapping[str, Any]) -> None:
        """The images of the rows that join, beside those of the others."""
        given = to_model(self._model, given)
        seen = None if self._step is None else self._step.see(given)
        if seen is not None:
            self._seen.join(slots, seen.select(places), self._cache.slots)
            return
        # Made afresh, as it is known by its place.
        if len(places) == self._cache.slots and list(places) == list(range(len(places))):
            self._images = {name: value[: len(places)] for name, value in given.items()}
            return
        for name, value in given.items():
            new = value[list(places)]
            former = self._images.get(name, new[:0])
            self._images[name] = join_slots(former, new, slots, self._cache.slots)

    def _fit_masks(self) -> Mask:
        masks = self._state.masks
        if self._model.config._attn_implementation in _MASKED:
            return masks.get("", masks)
        return (self._state.mask[:, 0, 0] == 0).long()

    def _keep_answer(self, slot: int, row: RunningRow) -> None:
        """Keep the keys and values of an answer, for prompts that repeat it. Its last token was never run."""
        asked = self._family.list_units(row.work.encoded)
        prompt = len(row.work.encoded.ids)
        run = min(self._cache.count_tokens(slot) - prompt, len(row.ids))
        units = (*asked, *(("", (index,)) for index in row.ids[:run]))
        try:
            self._prefixes.keep_answer(units, len(asked), self._cache.read_row(slot, prompt + run))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
