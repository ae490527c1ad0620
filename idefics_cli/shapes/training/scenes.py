"""The world of the `shapes` checkpoint: plain scenes of coloured shapes, and how they are painted.

A `Scene` is what is true; `paint` makes one picture of it and hides the truth behind shades, outlines, gradients,
noise, aliasing and JPEG artefacts, so that a model trained on it also reads what other programs draw. Knows no text.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Colour = tuple[int, int, int]

KINDS = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "moon")

# Anchors per colour name, from the CSS names and common palettes; `shade` strays a little from them.
COLOURS: dict[str, tuple[Colour, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (229, 57, 53), (200, 16, 16), (239, 68, 68), (178, 20, 24)),
    "orange": ((255, 165, 0), (255, 140, 0), (249, 115, 22), (251, 140, 0), (255, 127, 14)),
    "yellow": ((255, 255, 0), (255, 235, 59), (250, 204, 21), (253, 224, 71), (255, 215, 0)),
    "green": (
        (0, 128, 0), (0, 255, 0), (34, 197, 94), (76, 175, 80), (46, 139, 87), (0, 100, 0), (50, 205, 50),
        (144, 238, 144),
    ),
    "blue": (
        (0, 0, 255), (30, 144, 255), (59, 130, 246), (33, 150, 243), (0, 0, 128), (65, 105, 225), (29, 78, 216),
        (100, 149, 237), (135, 206, 235), (135, 181, 255),
    ),
    "purple": (
        (128, 0, 128), (147, 51, 234), (156, 39, 176), (75, 0, 130), (138, 43, 226), (103, 58, 183), (186, 85, 211),
    ),
    "pink": ((255, 192, 203), (255, 105, 180), (244, 143, 177), (249, 168, 212), (255, 150, 190), (236, 72, 153)),
    "brown": ((139, 69, 19), (121, 85, 72), (101, 67, 33), (160, 82, 45), (120, 53, 15)),
    "black": ((0, 0, 0), (17, 17, 17), (30, 30, 32), (8, 8, 12)),
    "white": ((255, 255, 255), (250, 250, 250), (245, 245, 240)),
    "gray": (
        (128, 128, 128), (105, 105, 105), (158, 158, 158), (140, 146, 152), (80, 80, 80), (192, 192, 192),
        (205, 205, 205),
    ),
}  # fmt: skip
# Grounds that look alike with shapes on them: a pair is never used in one scene.
CONFUSABLE = {
    frozenset(pair)
    for pair in (("red", "brown"), ("orange", "brown"), ("orange", "yellow"), ("pink", "white"), ("purple", "pink"),
                 ("red", "orange"), ("black", "brown"), ("red", "pink"), ("white", "yellow"), ("blue", "purple"))
}  # fmt: skip
PLACES = (
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: centre and half extent as fractions of the canvas (x of its width, y of its height)."""

    kind: str
    colour: str
    x: float
    y: float
    half_width: float
    half_height: float
    angle: float
    variant: int

    @property
    def place(self) -> str:
        """The cell of a 3x3 grid that its centre lies in."""
        return PLACES[min(int(self.y * 3), 2) * 3 + min(int(self.x * 3), 2)]

    @property
    def extent(self) -> float:
        return math.sqrt(self.half_width * self.half_height)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is true of a picture. Shapes run from left to right."""

    width: int
    height: int
    ground: str
    shapes: tuple[Shape, ...]

    def find(self, kind: str) -> tuple[Shape, ...]:
        return tuple(shape for shape in self.shapes if shape.kind == kind)


def sample_scene(random: Random, count: int, *, twins: bool = False) -> Scene:
    """A scene of `count` shapes (0 to 3), all of different kinds unless `twins`."""
    while True:
        scene = _try_scene(random, count, twins)
        if scene is not None:
            return scene


def _try_scene(random: Random, count: int, twins: bool) -> Scene | None:
    side = random.choice((96, 128, 160, 192, 224, 256, 320)) if random.random() < 0.9 else random.randint(320, 640)
    aspect = 1.0 if random.random() < 0.45 else math.exp(random.uniform(-0.75, 0.75))
    width, height = (max(96, min(640, round(side * factor))) for factor in (math.sqrt(aspect), 1 / math.sqrt(aspect)))
    ground = (
        random.choice(list(COLOURS)) if random.random() < 0.55 else random.choice(("white", "white", "black", "gray"))
    )
    kinds = random.sample(KINDS, count)
    if twins and count > 1:
        kinds[-1] = kinds[0]
        random.shuffle(kinds)
    largest = (0.36, 0.46, 0.30, 0.24)[count]
    shapes: list[Shape] = []
    for kind in kinds:
        used = [shape.colour for shape in shapes]
        palette = [c for c in COLOURS if c != ground and frozenset((c, ground)) not in CONFUSABLE]
        fresh = [c for c in palette if c not in used]
        colour = random.choice(fresh if twins or random.random() < 0.9 else palette)
        shape = _place(random, kind, colour, width, height, largest)
        if shape is None or any(_touch(shape, other) for other in shapes):
            return None
        shapes.append(shape)
    shapes.sort(key=lambda shape: shape.x)
    if any(b.x - a.x < 0.13 for a, b in pairwise(shapes)):
        return None
    return Scene(width, height, ground, tuple(shapes))


def _place(random: Random, kind: str, colour: str, width: int, height: int, largest: float) -> Shape | None:
    half = math.sqrt(width * height) * random.uniform(0.105, largest)
    half_width, half_height = half / width, half / height
    if min(half_width, half_height) < 0.085 or max(half_width, half_height) > 0.48:
        return None
    x = random.uniform(half_width + 0.01, 0.99 - half_width)
    y = random.uniform(half_height + 0.01, 0.99 - half_height)
    # Centres keep off the borders between the nine places, where people would disagree too.
    if any(abs(value - border) < 0.035 for value in (x, y) for border in (1 / 3, 2 / 3)):
        return None
    angle = {"star": random.uniform(-36, 36), "moon": random.uniform(-60, 60)}.get(kind, random.uniform(-9, 9))
    if random.random() < 0.5 and kind != "star":
        angle = 0.0
    return Shape(kind, colour, x, y, half_width, half_height, angle, random.randrange(1000))


def _touch(a: Shape, b: Shape) -> bool:
    return (
        abs(a.x - b.x) < (a.half_width + b.half_width) * 1.02
        and abs(a.y - b.y) < (a.half_height + b.half_height) * 1.02
    )


def outline(kind: str, variant: int) -> list[Point]:
    """The corners of a shape inside the square [-1, 1]², y pointing down."""
    turn = math.tau
    if kind == "circle":
        return [(math.cos(turn * i / 60), math.sin(turn * i / 60)) for i in range(60)]
    if kind == "square":
        a = 0.9
        return [(-a, -a), (a, -a), (a, a), (-a, a)]
    if kind == "triangle":
        tip = (0.0, -0.6, 0.0, 0.0, 0.0)[variant % 5]
        top = -1.0 if variant % 3 else -0.8
        flip = -1 if variant % 7 == 0 else 1
        return [(tip, top * flip), (0.95, 0.8 * flip), (-0.95, 0.8 * flip)]
    if kind == "star":
        inner = (0.38, 0.45, 0.5)[variant % 3]
        radii = [1.0 if i % 2 == 0 else inner for i in range(10)]
        return [(r * math.sin(turn * i / 10), -r * math.cos(turn * i / 10)) for i, r in enumerate(radii)]
    if kind == "diamond":
        wide = (0.7, 0.85, 1.0)[variant % 3]
        return [(0, -1), (wide, 0), (0, 1), (-wide, 0)]
    if kind == "cross":
        arm = (0.24, 0.3, 0.36)[variant % 3]
        quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
        return [_rotate(p, 90 * k) for k in range(4) for p in quarter]
    if kind == "heart":
        steps = [turn * i / 60 for i in range(60)]
        return [
            (
                16 * math.sin(t) ** 3 / 17,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.08,
            )
            for t in steps
        ]
    # A moon is a disc less a disc shifted aside; the two arcs meet at ±`edge` degrees.
    shift = (0.55, 0.7, 0.85)[variant % 3]
    edge = math.acos(shift / 2)
    outer = [edge + (turn - 2 * edge) * i / 40 for i in range(41)]
    inner_arc = [math.pi - edge + 2 * edge * (40 - i) / 40 for i in range(41)]
    points = [(math.cos(t), math.sin(t)) for t in outer]
    points += [(shift + math.cos(t), -math.sin(t)) for t in reversed(inner_arc)]
    side = -1 if variant % 2 else 1
    return [(side * x, y) for x, y in points]


def _rotate(point: Point, degrees: float) -> Point:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return point[0] * c - point[1] * s, point[0] * s + point[1] * c


def corners(shape: Shape, width: float, height: float, grow: float = 1.0) -> list[Point]:
    """The corners of a placed shape in pixels of a canvas of the given size."""
    points = (_rotate(point, shape.angle) for point in outline(shape.kind, shape.variant))
    return [
        ((shape.x + x * shape.half_width * grow) * width, (shape.y + y * shape.half_height * grow) * height)
        for x, y in points
    ]


def shade(random: Random, name: str) -> Colour:
    """A tone that people would still call by this name."""
    anchor = random.choice(COLOURS[name])
    spread = {"black": 6, "white": 5}.get(name, 12)
    if name in ("gray", "black", "white"):
        offset = random.randint(-spread, spread)
        offsets = [offset + random.randint(-2, 2) for _ in anchor]
    else:
        offsets = [random.randint(-spread, spread) for _ in anchor]
    r, g, b = (max(0, min(255, value + offset)) for value, offset in zip(anchor, offsets, strict=True))
    return r, g, b


def paint(scene: Scene, random: Random) -> Image.Image:
    """One RGB picture of the scene, `scene.width` by `scene.height` pixels."""
    scale = random.choice((1, 2, 3)) if max(scene.width, scene.height) <= 320 else random.choice((1, 2))
    width, height = scene.width * scale, scene.height * scale
    ground = shade(random, scene.ground)
    picture = Image.new("RGB", (width, height), ground)
    if random.random() < 0.2:
        picture = _grade(random, picture, strength=14)
    for shape in scene.shapes:
        _paint_shape(random, picture, shape, ground, scale)
    if scale > 1:
        picture = picture.resize((scene.width, scene.height), Image.Resampling.BOX)
    if random.random() < 0.12:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.9)))
    if random.random() < 0.25:
        noise = np.random.default_rng(random.getrandbits(32)).normal(
            0, random.uniform(2, 9), (scene.height, scene.width, 3)
        )
        picture = Image.fromarray((np.asarray(picture, np.float32) + noise).clip(0, 255).astype(np.uint8))
    if random.random() < 0.35:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=random.randint(40, 95))
        picture = Image.open(buffer).convert("RGB")
    return picture


def _paint_shape(random: Random, picture: Image.Image, shape: Shape, ground: Colour, scale: int) -> None:
    colour = shade(random, shape.colour)
    # A shade too near to this very ground would hide the shape.
    for _ in range(8):
        if math.dist(colour, ground) > 95:
            break
        colour = shade(random, shape.colour)
    points = corners(shape, *picture.size)
    half = min(shape.half_width * picture.width, shape.half_height * picture.height)
    look = random.random()
    draw = ImageDraw.Draw(picture)
    if look < 0.05 and shape.kind != "moon":  # drawn with a pen, unfilled
        draw.line(
            [*points, *points[:2]],
            fill=colour,
            width=max(2, round(half * random.uniform(0.16, 0.3))),
            joint="curve",
        )
        return
    if look < 0.12:  # a soft shadow under it
        offset = half * random.uniform(0.05, 0.12)
        dark = tuple(round(value * 0.72) for value in ground)
        draw.polygon([(x + offset, y + offset) for x, y in points], fill=dark)
    if look < 0.25:  # graded fill
        mask = Image.new("L", picture.size, 0)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        picture.paste(_grade(random, Image.new("RGB", picture.size, colour), strength=22), (0, 0), mask)
    else:
        draw.polygon(points, fill=colour)
    if look > 0.8:  # a thin edge, darker, black or white
        edge = random.choice((tuple(round(value * 0.6) for value in colour), (0, 0, 0), (255, 255, 255)))
        draw.line(
            [*points, *points[:2]],
            fill=edge,
            width=max(1, round(half * random.uniform(0.03, 0.09))),
            joint="curve",
        )


def _grade(random: Random, picture: Image.Image, strength: float) -> Image.Image:
    """Lighten towards one side and darken towards the other, by at most `strength` levels."""
    width, height = picture.size
    angle, amount = random.uniform(0, math.tau), random.uniform(4, strength)
    ramp = (
        np.linspace(-math.cos(angle), math.cos(angle), width)[None, :]
        + np.linspace(-math.sin(angle), math.sin(angle), height)[:, None]
    )
    graded = np.asarray(picture, np.float32) + (ramp * amount / 1.5)[:, :, None]
    return Image.fromarray(graded.clip(0, 255).astype(np.uint8))
