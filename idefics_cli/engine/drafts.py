"""Several tokens of a row in one pass, where its format leaves one text: they are a draft, and the pass checks it.

Each place is chosen as in any step. Tokens after one that was chosen otherwise are dropped, so an answer is the same as
a token at a time, its log-probabilities as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..models.families.placeholder_family import PlaceholderFamily
from .choose import choose
from .inputs import to_model
from .kv_cache import open_cache
from .masks import list_windows
from .running_row import RunningRow
from .slot_cache import SlotCache

Shapes = tuple[torch.Size, ...]
MOST_ROWS = 32
"""How many rows are drafted in one pass, as each has logits for each token."""


def run_drafts(
    model: Any,
    family: PlaceholderFamily,
    cache: SlotCache,
    rows: Mapping[int, RunningRow],
    banned: Tensor | None,
) -> bool:
    """Run the drafts of rows, all but the last token; False if that would not save a pass.

    Raises where a pass fails. Rows whose passes went well before are as after a step.
    """
    if family.sees_ahead or len(list_windows(family)) > 1:
        return False
    drafts = {slot: draft for slot, row in rows.items() if (draft := row.draft())}
    # A step is shared by all rows: so many tokens have to be saved to be worth a pass.
    if sum(map(len, drafts.values())) <= len(rows):
        return False
    cache.make_room({slot: len(draft) for slot, draft in drafts.items()})
    by_shapes = sorted(drafts, key=lambda slot: _list_shapes(rows[slot]))
    for _, alike in groupby(by_shapes, key=lambda slot: _list_shapes(rows[slot])):
        slots = list(alike)
        for start in range(0, len(slots), MOST_ROWS):
            some = {slot: (rows[slot], drafts[slot]) for slot in slots[start : start + MOST_ROWS]}
            _run_alike(model, family, cache, some, banned)
    return True


def _list_shapes(row: RunningRow) -> Shapes:
    return tuple(value.shape for _, value in sorted(row.images.items()))


def _run_alike(
    model: Any,
    family: PlaceholderFamily,
    cache: SlotCache,
    drafted: Mapping[int, tuple[RunningRow, Sequence[int]]],
    banned: Tensor | None,
) -> None:
    """One pass of rows whose images have the same shapes."""
    slots = list(drafted)
    past = max(map(cache.count_tokens, slots))
    width = max(len(draft) for _, draft in drafted.values())
    ids = torch.full((len(slots), width), family.pad_id)
    mask = torch.zeros((len(slots), past + width), dtype=torch.long)
    positions = torch.zeros((len(slots), width), dtype=torch.long)
    for place, (slot, (row, draft)) in enumerate(drafted.items()):
        ids[place, : len(draft)] = torch.tensor([row.last, *draft[:-1]])
        mask[place, past - cache.count_tokens(slot) : past + len(draft)] = 1
        positions[place] = cache.find_position(slot) + torch.arange(width)
    given = [row.images for row, _ in drafted.values()]
    images = {name: torch.cat([one[name] for one in given]) for name in given[0]}
    made = open_cache(cache.read_rows(slots, past), len(slots))
    logits: Tensor = model(
        past_key_values=made,
        use_cache=True,
        **to_model(
            model,
            {
                "input_ids": ids,
                "attention_mask": mask,
                "position_ids": positions,
                **family.for_forward(family.last_image_inputs(images, width) if images else {}),
            },
        ),
    ).logits
    run = dict.fromkeys(slots, 0)
    agreeing = list(enumerate(slots))
    while agreeing:
        places = [place for place, _ in agreeing]
        taking = [drafted[slot][0] for _, slot in agreeing]
        column = run[agreeing[0][1]]
        going_on = []
        for (place, slot), one in zip(agreeing, choose(logits[places, column], taking, banned), strict=True):
            row, draft = drafted[slot]
            row.take(one.token, one.logprob, one.is_finite, one.likeliest)
            run[slot] += 1
            if one.token == draft[column] and not row.is_ended and run[slot] < len(draft):
                going_on.append((place, slot))
        agreeing = going_on
    for slot, (row, draft) in drafted.items():
        row.waste(len(draft) - run[slot])
    cache.extend(made, run, past)
