"""The images that a checkpoint was trained for, if not for all, and the warning about others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import PIL.Image

from ..values import Image

SCENE_SIZE = 80
"""Side of the square in which scenes are seen, in pixels."""
EDGE_LEVELS = 24
"""Difference between neighbouring pixels, of 255, from which on there is an edge."""
FLAT_SHARE = 0.81
"""Least share of pixels without an edge: 500 generated scenes have 0.83 to 0.99, most photographs less."""
TONES_SHARE = 0.74
"""Least share of pixels in the five most frequent tones (8 levels a channel): scenes have 0.76 to 1."""


def squash(picture: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    """`[80, 80, 3]` bytes, resized as `IdeficsImageProcessor` does before it normalises."""
    return np.asarray(picture.resize((SCENE_SIZE, SCENE_SIZE), PIL.Image.Resampling.BICUBIC))


def describe_foreign(image: Image) -> str | None:
    """A warning for an image that is no plain scene of flat shapes, None for one that is."""
    pixels = squash(image.pixels).astype(np.int16)
    across = np.abs(np.diff(pixels, axis=1)).max(2)[:-1] > EDGE_LEVELS
    down = np.abs(np.diff(pixels, axis=0)).max(2)[:, :-1] > EDGE_LEVELS
    tones = np.unique((pixels // 32) @ np.array([64, 8, 1]), return_counts=True)[1]
    is_flat = 1 - (across | down).mean() >= FLAT_SHARE
    has_few_tones = np.sort(tones)[-5:].sum() / tones.sum() >= TONES_SHARE
    if is_flat and has_few_tones:
        return None
    return "this does not look like a plain scene; the model knows only coloured shapes, so do not trust its answer"


IMAGE_SCOPES: dict[str, Callable[[Image], str | None]] = {"plain scenes": describe_foreign}
