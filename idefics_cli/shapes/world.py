"""Whether a picture could be of the checkpoint's world: flat shapes on a plain ground."""

from __future__ import annotations

import numpy as np

from ..values import Image
from .training.pictures import squash

EDGE_LEVELS = 24
"""Difference between neighbouring pixels, of 255, from which on there is an edge."""
FLAT_SHARE = 0.81
"""Least share of pixels without an edge: 500 generated scenes have 0.83 to 0.99, most photographs less."""
TONES_SHARE = 0.74
"""Least share of pixels in the five most frequent tones (8 levels a channel): scenes have 0.76 to 1."""


def describe_foreign(image: Image) -> str | None:
    """A warning for a picture that the `shapes` checkpoint was not made for, None for a plain scene."""
    pixels = squash(image.pixels).astype(np.int16)
    across = np.abs(np.diff(pixels, axis=1)).max(2)[:-1] > EDGE_LEVELS
    down = np.abs(np.diff(pixels, axis=0)).max(2)[:, :-1] > EDGE_LEVELS
    tones = np.unique((pixels // 32) @ np.array([64, 8, 1]), return_counts=True)[1]
    is_flat = 1 - (across | down).mean() >= FLAT_SHARE
    has_few_tones = np.sort(tones)[-5:].sum() / tones.sum() >= TONES_SHARE
    if is_flat and has_few_tones:
        return None
    return (
        "this does not look like a plain scene; the model `shapes` knows only coloured shapes, "
        "so do not trust its answer"
    )
