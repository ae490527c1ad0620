"""Prefixes run once: keys and values of what several prompts begin with, computed for one row and kept.

A prefix is identified by its units, so prompts with other images never share one. A prefix can be cut from a longer
one, and a longer one continues it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..lru import LRUCache
from ..models.devices import find_input_device
from ..models.families.family import Encoded
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from .batching import PrefixUnit
from .image_features import Features
from .inputs import to_model
from .kv_cache import open_cache, read_cache
from .masks import mask_prompts

PrefixUnits = tuple[PrefixUnit, ...]
LATEST = 32


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys and values of each layer, for one row. `reused` counts the tokens that were not computed for it.

    After an answer, the first `prompt_units` of its units are the prompt and the rest was generated.
    """

    length: int = 0
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
    reused: int = 0
    prompt_units: int = 0

    def cut(self, length: int) -> Prefix:
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers)
        return Prefix(length, layers)


class Prefixes:
    """Computes prefixes and keeps them."""

    def __init__(self, model: Any, family: PlaceholderFamily, features: Features, store: LRUCache[Any, Any]) -> None:
        self._model = model
        self._family = family
        self._features = features
        self._store = store
        self._token_bytes = 0
        """Of keys and values; unknown before the first prefix."""
        self.hits = self.misses = 0

    def list_kept(self, prompts: Sequence[PrefixUnits]) -> list[PrefixUnits]:
        """Kept prefixes that these prompts may use: those they begin with, and the latest, for their beginnings."""
        kept = [units for kind, units in self._store.list_keys() if kind == "prefix"]
        former, latest = kept[:-LATEST], kept[-LATEST:]
        return latest + [units for units in former if any(_begins(prompt, units) for prompt in prompts)]

    def compute(self, encoded: Encoded, units: PrefixUnits, cuts: Sequence[int]) -> Prefix:
        """The first tokens of a prompt up to the last cut, each cut kept on the way."""
        ends = list(accumulate(len(ids) for _, ids in units))
        prefix = Prefix()
        for cut in cuts:
            name = units[: ends.index(cut) + 1]
            known = self._find(name, cut)
            if known.length > prefix.length:
                prefix = Prefix(known.length, known.layers, known.length)
            if prefix.length == cut:
                self.hits += 1
                continue
            self.misses += 1
            prefix = self._extend(encoded, prefix, cut)
            self._token_bytes = _count_bytes(prefix) // cut
            self._store.keep(("prefix", name), prefix, _count_bytes(prefix))
        return prefix

    def foresee(self, units: PrefixUnits, cuts: Sequence[int], seen: set[PrefixUnits]) -> tuple[int, int]:
        """How many of the first tokens of a prompt need not be run again, up to the last cut, and the bytes of prefixes
        that are kept for it, or will be. Those that others have `seen` are theirs. Marks them as used.
        """
        ends = list(accumulate(len(ids) for _, ids in units))
        length = held_bytes = 0
        for cut in cuts:
            name = units[: ends.index(cut) + 1]
            if name in seen:
                length = cut
                continue
            seen.add(name)
            length = max(length, self._find(name, cut).length)
            held_bytes += self._store.touch(("prefix", name)) or cut * self._token_bytes
        return length, held_bytes

    def keep_answer(self, units: PrefixUnits, prompt_units: int, layers: tuple[tuple[Tensor, Tensor], ...]) -> None:
        """Keep a row's keys and values after its answer was generated.

        Answers of earlier turns are dropped: this one holds their prompts and texts too.
        """
        prefix = Prefix(layers[0][0].shape[2], layers, prompt_units=prompt_units)
        for kind, former in self._store.list_keys():
            known: Prefix | None = self._store.find((kind, former)) if kind == "prefix" else None
            asked = known.prompt_units if known is not None else 0
            if asked and _begins(units, former[:asked]):
                self._store.drop((kind, former))
        self._store.keep(("prefix", units), prefix, _count_bytes(prefix))

    def _find(self, name: PrefixUnits, cut: int) -> Prefix:
        """The longest kept beginning of a prefix, cut from a longer one if need be."""
        best = Prefix()
        exact: Prefix | None = self._store.find(("prefix", name))
        if exact is not None:
            return exact
        for kind, units in self._store.list_keys():
            if kind != "prefix":
                continue
            if len(units) > len(name) and units[: len(name)] == name:
                longer: Prefix = self._store.find((kind, units)) or best
                return longer.cut(cut)
            if _begins(name, units):
                shorter: Prefix = self._store.find((kind, units)) or best
                best = max(best, shorter, key=lambda prefix: prefix.length)
        return best

    def _extend(self, encoded: Encoded, base: Prefix, cut: int) -> Prefix:
        """Run the tokens between a prefix and a later cut."""
        token_range = TokenRange(encoded, base.length, cut)
        features = self._features.gather([token_range])
        images = self._family.image_inputs([token_range], cut - base.length, features)
        cache = open_cache(base.layers)
        device = find_input_device(self._model)
        seen: dict[str, Any] = {}
        if self._family.sees_ahead:
            ones = torch.ones((1, cut), dtype=torch.long, device=device)
            begun = [replace(encoded, ids=encoded.ids[:cut])]
            mask = mask_prompts(self._model, self._family, begun, 0, ones, cut - base.length)
            seen = {"attention_mask": mask}
        self._model(
            input_ids=torch.tensor([encoded.ids[base.length : cut]], device=device),
            **seen,
            position_ids=self._place(encoded, base.length, cut).to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **to_model(self._model, self._family.for_forward(images)),
        )
        return Prefix(cut, read_cache(cache), base.reused)

    def _place(self, encoded: Encoded, start: int, stop: int) -> Tensor:
        places = self._family.place_tokens(encoded)
        return torch.arange(start, stop)[None] if places is None else places[:, None, start:stop]


def _count_bytes(prefix: Prefix) -> int:
    return sum(one.numel() * one.element_size() for layer in prefix.layers for one in layer)


def _begins(prompt: PrefixUnits, kept: PrefixUnits) -> bool:
    size = len(kept)
    return len(prompt) >= size and prompt[size - 1] == kept[-1] and prompt[:size] == kept
