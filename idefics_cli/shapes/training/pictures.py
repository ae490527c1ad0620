"""The training pictures on disk: painted once by all cores, kept as 80x80 pixels beside the scenes they show.

Number `index` of a seed is always the same picture, so a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...models.image_scope import SCENE_SIZE, squash
from .scenes import Scene, paint, sample_scene

IMAGE_SIZE = SCENE_SIZE
"""Side of the square the vision tower sees, in pixels."""
BLOCK = 2000
"""Pictures per file."""


def scene_number(seed: str, index: int) -> Scene:
    """Scene `index` of a seed: 8 % without a shape, 46 % with one, 27 % with two, 19 % with three."""
    random = Random(f"{seed}:{index}")
    count = random.choices((0, 1, 2, 3), (8, 46, 27, 19))[0]
    return sample_scene(random, count, twins=random.random() < 0.12)


def picture_number(seed: str, index: int) -> Image.Image:
    """The picture of scene `index` of a seed, at its own size."""
    return paint(scene_number(seed, index), Random(f"{seed}:{index}:paint"))


def _paint_block(path: Path, seed: str, start: int) -> None:
    pictures = np.stack([squash(picture_number(seed, index)) for index in range(start, start + BLOCK)])
    draft = path.with_suffix(f".{os.getpid()}.npy")
    np.save(draft, pictures)
    draft.replace(path)


def paint_all(folder: Path, seed: str, count: int, workers: int) -> Iterator[int]:
    """Paint what is missing of the first `count` pictures; yield how many blocks are still to do."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [start for start in range(0, count, BLOCK) if not _block(folder, start).exists()]
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(_paint_block, _block(folder, start), seed, start) for start in missing]
        for left, future in zip(range(len(futures) - 1, -1, -1), futures, strict=True):
            future.result()
            yield left


def load_all(folder: Path, count: int) -> npt.NDArray[np.uint8]:
    """`[count, 80, 80, 3]` bytes of all pictures."""
    return np.concatenate([np.load(_block(folder, start)) for start in range(0, count, BLOCK)])[:count]


def _block(folder: Path, start: int) -> Path:
    return folder / f"{start:07d}.npy"
