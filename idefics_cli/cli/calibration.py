"""The file that `idefics calibrate` writes and --calibration reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadItem, UsageError
from ..files import read_file
from ..jsonl import parse_line

_MAX_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Calibration:
    """The temperature at which a model's probabilities of labels are calibrated."""

    temperature: float
    model: str


def load_calibration(name: str) -> Calibration:
    """What is in a file. Raises UsageError for one that `idefics calibrate` did not write."""
    try:
        document = parse_line(read_file(Path(name), _MAX_BYTES).strip())
    except OSError as error:
        raise UsageError(
            f"cannot read {name}: {error.strerror}", hint="make it with `idefics calibrate`"
        ) from error
    except BadItem as error:
        raise UsageError(f"{name}: {error}", hint="make it with `idefics calibrate`") from error
    temperature, model = document.get("temperature"), document.get("model")
    if (
        not isinstance(temperature, (int, float))
        or not isinstance(model, str)
        or not (math.isfinite(temperature) and temperature > 0)
    ):
        raise UsageError(f"{name} is not a calibration file", hint="make it with `idefics calibrate`")
    return Calibration(float(temperature), model)
