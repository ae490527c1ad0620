"""The range of each decoding option, for the command line, templates, items and the API.

Within these ranges every library computes what is meant; outside them are overflows and unbounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1000
_LONG_BITS = 128


@dataclass(frozen=True, slots=True)
class DecodingRange:
    """From `least` to `most`, both included, or `off`."""

    least: float
    most: float
    off: float | None = None

    def __contains__(self, value: float) -> bool:
        return value == self.off or self.least <= value <= self.most

    def __str__(self) -> str:
        off = "" if self.off is None else f"{self.off:g}, or "
        return f"{off}{self.least:,} to {self.most:,}"


RANGES = {
    "max_new_tokens": DecodingRange(1, 1_000_000),
    "num_beams": DecodingRange(1, 64),
    "temperature": DecodingRange(0.001, 100, off=0),
    "top_p": DecodingRange(0.0001, 1),
    "top_k": DecodingRange(0, 1_000_000),
    "repetition_penalty": DecodingRange(0.01, 100),
    "no_repeat_ngram_size": DecodingRange(0, 1000),
    "length_penalty": DecodingRange(-100, 100),
    "seed": DecodingRange(0, 2**63 - 1),
}


def check_decoding(name: str, value: Any) -> None:
    """Raise ValueError, with the reason, if a value is outside its option's range. None is "not given"."""
    if value is None:
        return
    if name == "stop":
        _check_stops(value)
    elif value not in RANGES[name]:
        raise ValueError(f"{_show(value)} is not in the range {RANGES[name]}")


def _check_stops(texts: list[str]) -> None:
    if len(texts) > MAX_STOPS:
        raise ValueError(f"{len(texts)} texts are more than {MAX_STOPS}")
    for text in texts:
        if not text:
            raise ValueError("an empty text would end every answer before it begins")
        if len(text) > MAX_STOP_CHARACTERS:
            raise ValueError(f"a text of {len(text):,} characters is longer than {MAX_STOP_CHARACTERS:,}")


def _show(value: float) -> str:
    """The number as given, unless it has very many digits."""
    return "it" if isinstance(value, int) and value.bit_length() > _LONG_BITS else str(value)
