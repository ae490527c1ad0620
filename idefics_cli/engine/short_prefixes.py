"""Which shared prefixes cost more than they save. Pure arithmetic.

Whole prompts of one length need no mask: attention is computed for the half of each square that a token sees. Behind a
prefix it is computed for all of it, which for long prompts is more than running a few tokens again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .batching import Batch, PlannedRow

LONG_TOKENS = 512
"""From so many tokens on, the attention of a prompt is worth a thought."""


def drop_short_prefixes(batches: Sequence[Batch], rows: Sequence[PlannedRow], width: int) -> list[Batch]:
    """The batches, without prefixes that cost more than they save in a model of this width."""
    return [replace(batch, cuts=()) if _costs(batch, rows, width) else batch for batch in batches]


def _costs(batch: Batch, rows: Sequence[PlannedRow], width: int) -> bool:
    lengths = {rows[index].length for index in batch.rows}
    own = max(lengths) - batch.prefix
    if len(lengths) > 1 or own < LONG_TOKENS:
        return False
    # Half a square of so many tokens, against the dozen matrices of a layer: in tokens.
    return batch.prefix < own**2 / (12 * width)
