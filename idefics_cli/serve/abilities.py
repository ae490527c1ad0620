"""What a server knows about its model, so that it can refuse a request early."""

from __future__ import annotations

from typing import get_args

from ..backends.backend import Abilities
from ..backends.local import LocalBackend
from ..errors import ModelError
from ..values import Style


def find_abilities(backend: LocalBackend) -> Abilities:
    """The abilities of a model loaded in this process."""
    family = backend.family
    refusals: dict[str, str] = {}
    for style in get_args(Style):
        try:
            backend.check_style(style)
        except ModelError as error:
            refusals[style] = str(error)
    return Abilities(
        most_letters=family.context_tokens * max(map(len, family.tokenizer.get_vocab())),
        has_system_role=family.has_system_role,
        refusals=refusals,
        image_edge=backend.image_edge,
    )
