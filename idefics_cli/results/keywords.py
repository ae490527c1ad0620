"""The keywords of an image, from an answer."""

from __future__ import annotations

from typing import Any

LISTS = ("keywords", "tags", "labels")
"""What lists of them are called in an answer of a format."""


def list_keywords(label: Any, data: Any) -> tuple[str, ...]:
    """The label of an answer, and the texts in lists of its data, each once."""
    listed = [data.get(name) for name in LISTS] if isinstance(data, dict) else []
    words = [
        one for several in listed if isinstance(several, list) for one in several if isinstance(one, str)
    ]
    return tuple(dict.fromkeys([*([label] if isinstance(label, str) and label else []), *words]))
