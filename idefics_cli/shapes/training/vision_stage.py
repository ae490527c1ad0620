"""Stage one of the training: the vision tower alone, with heads that are thrown away afterwards.

Every patch learns which shape covers it, its colour, its silhouette on a 5x5 grid, the place and the extent of the
whole shape; CLS learns the ground and the count. Without the silhouettes, shapes are barely learned at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import GRID, WIDTH
from .scenes import COLOURS, KINDS, PLACES, Scene, corners

SUB = 5
"""Silhouette cells per patch side."""
_COLOUR_INDEX = {name: index for index, name in enumerate(COLOURS)}


@dataclass(frozen=True, slots=True)
class Truth:
    """Targets of a batch. Patch targets are `[batch, 64]`, -1 where no shape covers the patch."""

    kind: Tensor
    colour: Tensor
    place: Tensor
    box: Tensor
    """`[batch, 64, 4]`: centre and half extents of the shape on the patch."""
    silhouette: Tensor
    """`[batch, 64, 25]` in 0..1."""
    ground: Tensor
    count: Tensor


def targets(scenes: Sequence[Scene]) -> Truth:
    """What the heads should say about each scene."""
    side, patches = GRID * SUB, GRID * GRID
    batch = len(scenes)
    kind = np.full((batch, patches), -1)
    colour, place = kind.copy(), kind.copy()
    box = np.zeros((batch, patches, 4), np.float32)
    silhouette = np.zeros((batch, patches, SUB * SUB), np.float32)
    for row, scene in enumerate(scenes):
        best = np.zeros(patches)
        for shape in scene.shapes:
            canvas = Image.new("L", (side * 3, side * 3))
            ImageDraw.Draw(canvas).polygon(corners(shape, side * 3, side * 3), fill=255)
            mask = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255
            cells = mask.reshape(GRID, SUB, GRID, SUB).transpose(0, 2, 1, 3).reshape(patches, SUB * SUB)
            silhouette[row] = np.maximum(silhouette[row], cells)
            cover = cells.mean(1)
            mine = (cover > 0.06) & (cover > best)
            best = np.maximum(best, cover)
            kind[row, mine] = KINDS.index(shape.kind)
            colour[row, mine] = _COLOUR_INDEX[shape.colour]
            place[row, mine] = PLACES.index(shape.place)
            box[row, mine] = (shape.x, shape.y, shape.half_width, shape.half_height)
    return Truth(
        kind=torch.from_numpy(kind),
        colour=torch.from_numpy(colour),
        place=torch.from_numpy(place),
        box=torch.from_numpy(box),
        silhouette=torch.from_numpy(silhouette),
        ground=torch.tensor([_COLOUR_INDEX[scene.ground] for scene in scenes]),
        count=torch.tensor([len(scene.shapes) for scene in scenes]),
    )


class Heads(nn.Module):
    """The throw-away heads on `[batch, 1 + 64, width]` vision features."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = nn.Linear(WIDTH, len(KINDS))
        self.colour = nn.Linear(WIDTH, len(COLOURS))
        self.place = nn.Linear(WIDTH, len(PLACES))
        self.box = nn.Linear(WIDTH, 4)
        self.silhouette = nn.Linear(WIDTH, SUB * SUB)
        self.ground = nn.Linear(WIDTH, len(COLOURS))
        self.count = nn.Linear(WIDTH, 4)

    def loss(self, features: Tensor, truth: Truth) -> tuple[Tensor, dict[str, float]]:
        """The sum of the heads' losses, and each head's accuracy (or error) for the log."""
        cls, patches = features[:, 0], features[:, 1:]
        on = truth.kind >= 0
        kind, colour, place = self.kind(patches[on]), self.colour(patches[on]), self.place(patches[on])
        box_error = (self.box(patches[on]) - truth.box[on]).abs().mean()
        silhouette = F.binary_cross_entropy_with_logits(self.silhouette(patches), truth.silhouette)
        ground, count = self.ground(cls), self.count(cls)
        loss = (
            F.cross_entropy(kind, truth.kind[on])
            + F.cross_entropy(colour, truth.colour[on])
            + 0.5 * F.cross_entropy(place, truth.place[on])
            + 4.0 * box_error
            + 4.0 * silhouette
            + 0.5 * F.cross_entropy(ground, truth.ground)
            + 0.5 * F.cross_entropy(count, truth.count)
        )
        with torch.no_grad():
            said = {
                "kind": (kind.argmax(-1) == truth.kind[on]).float().mean().item(),
                "colour": (colour.argmax(-1) == truth.colour[on]).float().mean().item(),
                "place": (place.argmax(-1) == truth.place[on]).float().mean().item(),
                "box": box_error.item(),
                "silhouette": silhouette.item(),
                "ground": (ground.argmax(-1) == truth.ground).float().mean().item(),
                "count": (count.argmax(-1) == truth.count).float().mean().item(),
            }
        return loss, said
