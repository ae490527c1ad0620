"""JSON from clients, of a bounded shape: its values are counted before any is built."""

from __future__ import annotations

from typing import Any

from ..errors import BadItem
from ..jsonl import parse_value


def parse_shape(body: bytes, most_values: int) -> Any:
    """The value of a body. Raises BadItem with what is wrong."""
    if body.count(b",") + body.count(b":") > 2 * most_values:
        raise BadItem(f"the body has more than {most_values:,} values", hint="send it in several calls")
    return parse_value(body, "the body")
