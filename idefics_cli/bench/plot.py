"""The table as a chart: a group of bars for each workload, shorter is better. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ..errors import UsageError
from .lines import Line
from .measure import Arm

COLOURS: dict[Arm, str] = {
    "guide": "#b8bcc4",
    "batch": "#7f97b8",
    "fixed": "#e0a98f",
    "idefics": "#d9622b",
    "vllm": "#5b8a72",
    "vllm-eager": "#93b5a3",
}
INK, PAPER = "#22252a", "#ffffff"
WIDTH, MARGIN, TITLE_WIDTH, LABEL_WIDTH = 1000, 24, 230, 190
BAR, GAP, GROUP_GAP = 20, 4, 18


def draw_plot(lines: Sequence[Line], title: str, path: Path) -> None:
    """Draw each workload's seconds against its slowest arm, and write the picture."""
    heights = [len(line.outcomes) * (BAR + GAP) + GROUP_GAP for line in lines]
    top = 3 * MARGIN + BAR
    picture = PIL.Image.new("RGB", (WIDTH, top + sum(heights) + MARGIN), PAPER)
    draw = PIL.ImageDraw.Draw(picture)
    font, large = PIL.ImageFont.load_default(15), PIL.ImageFont.load_default(19)
    draw.text((MARGIN, MARGIN), title, INK, large)
    draw.text((MARGIN, MARGIN + 28), "seconds, shorter is better; the ratio is that to guide", INK, font)
    for line, height in zip(lines, heights, strict=True):
        _draw_group(draw, font, line, top)
        top += height
    try:
        picture.save(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _draw_group(
    draw: PIL.ImageDraw.ImageDraw,
    font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont,
    line: Line,
    top: int,
) -> None:
    draw.text((MARGIN, top), line.workload.title, INK, font)
    slowest = max((outcome.seconds for outcome in line.outcomes.values()), default=0.0)
    left = MARGIN + TITLE_WIDTH
    room = WIDTH - left - LABEL_WIDTH - MARGIN
    for arm, outcome in line.outcomes.items():
        label = f"{arm}: failed"
        length = 0
        if outcome.failure is None:
            length = max(1, round(room * outcome.seconds / slowest))
            ratio = line.compare_speed(arm, "guide")
            label = f"{arm} {outcome.seconds:.1f} s" + ("" if ratio is None else f"  {ratio:.1f}x")
            draw.rectangle((left, top, left + length, top + BAR - 1), COLOURS[arm])
        draw.text((left + length + 8, top), label, INK, font)
        top += BAR + GAP
