"""IDEFICS's table of embeddings, whose added tokens are in a table of their own, read without asking which they are.

The library's look-up asks the host where they are, at every token: a GPU would wait for that, and no step could be
recorded.
"""

# torch is typed in parts only.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def embed_on_device(model: Any) -> None:
    """Let the tables of a model be read so, if they are two and all on one device."""
    table = model.get_input_embeddings()
    if getattr(table, "num_additional_embeddings", 0) and not hasattr(table, "_hf_hook"):
        table.forward = partial(_embed, table)


def _embed(table: Any, ids: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import embedding

    own, count = table.weight, table.num_embeddings
    known = embedding(ids.clamp(max=count - 1), own)
    added = table.additional_embedding((ids - count).clamp(min=0))
    return torch.where((ids < count)[..., None], known, added)
