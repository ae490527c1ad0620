"""Ranking labels by likelihood: the log-probability of each label's tokens and its terminator, summed.

All labels of a prompt run in one row after it, or once it has run. Each attends to the prompt and itself only, so
packing never changes a score. Equal labels get equal scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..models.devices import find_input_device
from ..models.families.family import Encoded
from ..models.families.placeholder_family import PlaceholderFamily, TokenRange
from .image_features import Features
from .inputs import count_positions, lay_rows, place_rows, to_model
from .kv_cache import open_cache
from .label_trie import PROMPT, Labels, PackedRow, pack
from .masks import finish, mask_prompts, show_prompts
from .prefix_cache import Prefix
from .short_prefixes import LONG_TOKENS

ROW_TOKENS = 500
"""The most label tokens of a row: attention grows with the square of it."""
LOGITS_AT_ONCE = 1024
"""The most label tokens of a batch: each has its likelihood over the whole vocabulary."""
_SLICE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """A prompt up to where its labels begin, the tokens of each label, and the whole rows."""

    encoded: Encoded
    labels: Labels
    rows: tuple[Encoded, ...]


def split_labels(prompt: Encoded, rows: Sequence[Encoded]) -> Ranking:
    """The prompt and its labels, cut where the rows differ: ids may merge across the end of the prompt."""
    start = _count_common(prompt.ids, min(row.ids for row in rows), max(row.ids for row in rows))
    begun = Encoded(prompt.ids[:start], prompt.spans, prompt.pixels)
    assert start > 0, "a prompt without a token cannot be ranked"
    assert not prompt.spans or prompt.spans[-1].stop <= start, "an image is never part of a label"
    return Ranking(begun, tuple(row.ids[start:] for row in rows), tuple(rows))


def count_label_tokens(labels: Labels) -> int:
    """The tokens of the longest row of these labels."""
    return max(len(row.tokens) for row in pack(labels, ROW_TOKENS))


def score_packed(
    model: Any,
    family: PlaceholderFamily,
    prompts: Sequence[Encoded],
    labels: Labels,
    prefix: Prefix,
    features: Features,
    row_tokens: int = ROW_TOKENS,
) -> list[list[float]]:
    """The score of each label after each prompt. The prompts share the prefix."""
    device = find_input_device(model)
    ids, mask = (one.to(device) for one in lay_rows(prompts, prefix.length, family.pad_id))
    width = ids.shape[1] - prefix.length
    token_ranges = [TokenRange(prompt, prefix.length, len(prompt.ids)) for prompt in prompts]
    seen = features.gather(token_ranges)
    cache = open_cache(prefix.layers, len(prompts))
    placed = place_rows(family, prompts, prefix.length, mask)
    skipped = torch.tensor([[family.count_skipped(prompt)] for prompt in prompts], device=device)
    scores = [[0.0] * len(labels) for _ in prompts]
    images: dict[str, Any] = {}
    last: Tensor | None = None
    labels_run = 0
    if width >= LONG_TOKENS and not prefix.length and not family.sees_ahead:
        # Beside the labels its attention would be computed whole, not the half that a token sees.
        images = family.image_inputs(token_ranges, width, seen)
        last = model(
            input_ids=ids[:, prefix.length :],
            attention_mask=mask_prompts(model, family, prompts, prefix.length, mask, width),
            position_ids=placed[..., prefix.length :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **to_model(model, family.for_forward(images)),
        ).logits
    for row in pack(labels, row_tokens):
        count = len(row.tokens)
        tokens = torch.tensor([row.tokens] * len(prompts), dtype=torch.long, device=device)
        if last is None:
            tokens = torch.cat([ids[:, prefix.length :], tokens], dim=-1)
            images = family.image_inputs(token_ranges, width, seen, labels=count)
        else:
            images = family.last_image_inputs(images, count)
            if labels_run:
                cache.crop(-labels_run)
        labels_run = count
        visible, order = _show(family, prompts, prefix.length, mask, row, tokens.shape[1])
        after = order[:, -count:] + skipped
        positions = torch.cat([placed, after.expand(*placed.shape[:-1], -1)], dim=-1)
        with _dense_attention(model):
            logits = model(
                input_ids=tokens,
                attention_mask=finish(family, visible, order, model.dtype),
                position_ids=positions[..., -tokens.shape[1] :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=count + 1 if last is None else count,
                **to_model(model, family.for_forward(images)),
            ).logits
        if last is None:
            last, logits = logits[:, :1].clone(), logits[:, 1:]
        found = _read_edges(last, logits, row)
        for place, likelihoods in enumerate(found):
            for index, edges in row.labels:
                scores[place][index] = math.fsum(likelihoods[edge] for edge in edges)
    return scores


def _read_edges(last: Tensor, logits: Tensor, row: PackedRow) -> list[list[float]]:
    """The log-probability of each edge of a row, for each prompt. `last` are the logits of the prompts' last tokens."""
    places = torch.tensor([place for place, _ in row.edges], device=logits.device)
    tokens = torch.tensor([token for _, token in row.edges], device=logits.device)
    found = torch.empty(len(last), len(row.edges), device=logits.device)
    for of_prompt, source in ((True, last), (False, logits)):
        chosen = (places == PROMPT) == of_prompt
        if not chosen.any():
            continue
        at = torch.zeros_like(places[chosen]) if of_prompt else places[chosen]
        # A slice at a time: in full precision all of them together would be the largest thing in memory.
        totals = torch.cat([part.float().logsumexp(-1) for part in torch.split(source, _SLICE, dim=1)], dim=1)
        found[:, chosen] = source[:, at, tokens[chosen]].float() - totals[:, at]
    result: list[list[float]] = found.tolist()
    return result


def _show(
    family: PlaceholderFamily,
    prompts: Sequence[Encoded],
    prefix: int,
    mask: Tensor,
    row: PackedRow,
    queries: int,
) -> tuple[Tensor, Tensor]:
    """Whether each of the last `queries` tokens sees each token, and each token's position.

    The labels stand after the prompts.
    """
    count, (rows, width) = len(row.tokens), mask.shape
    depths = torch.tensor(row.depths, dtype=torch.long, device=mask.device)
    order = torch.cat([count_positions(mask), mask.sum(-1, keepdim=True) + depths], dim=-1)
    visible = torch.zeros(rows, queries, width + count, dtype=torch.bool, device=mask.device)
    own = queries - count
    if own:
        visible[:, :own, :width] = show_prompts(family, prompts, prefix, mask, own)
    visible[:, own:, :width] = mask[:, None].bool()
    visible[:, own:, width:] = _show_ancestors(row).to(mask.device)
    return visible, order


@lru_cache(maxsize=32)
def _show_ancestors(row: PackedRow) -> Tensor:
    """Which tokens of a row are ancestors of which; a token is its own ancestor. Cached, as labels repeat with every
    image.
    """
    above = torch.eye(len(row.tokens), dtype=torch.bool)
    for place, parent in enumerate(row.parents):
        if parent != PROMPT:
            above[place] |= above[parent]
    return above


@contextmanager
def _dense_attention(model: Any) -> Iterator[None]:
    """Use dense attention meanwhile: flash attention takes no such masks."""
    own = model.config._attn_implementation
    if own in ("sdpa", "eager"):
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _count_common(*rows: Sequence[int]) -> int:
    shortest = min(len(row) for row in rows)
    return next((place for place in range(shortest) if len({row[place] for row in rows}) > 1), shortest)
