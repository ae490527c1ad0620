"""The table as a chart: a bar for each value, a line for its interval. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ..errors import UsageError
from .metrics import METRICS
from .report import Scored, percent

COLOURS = ("#d9622b", "#7f97b8", "#b8bcc4", "#6b8f71", "#8a6f9e")
INK, PAPER = "#22252a", "#ffffff"
WIDTH, MARGIN, NAME_WIDTH, LABEL_WIDTH, BAR, GAP = 1000, 24, 330, 190, 20, 6


def draw_scores(findings: Sequence[Scored], path: Path) -> None:
    """Draw each value on a scale up to 100, or up to the highest, and write the picture."""
    top = MARGIN + 30
    picture = PIL.Image.new("RGB", (WIDTH, top + len(findings) * (BAR + GAP) + MARGIN), PAPER)
    draw = PIL.ImageDraw.Draw(picture)
    font = PIL.ImageFont.load_default(15)
    draw.text((MARGIN, MARGIN - 6), "values times 100, with 95 % bootstrap intervals", INK, font)
    left, files = MARGIN + NAME_WIDTH, list(dict.fromkeys(one.file for one in findings))
    for place, one in enumerate(findings):
        y = top + place * (BAR + GAP)
        most = max(1.0, *(other.interval.high for other in findings if other.metric == one.metric))
        room = (WIDTH - left - LABEL_WIDTH - MARGIN) / most
        name = [METRICS[one.metric].title, one.group, one.file if len(files) > 1 else ""]
        draw.text((MARGIN, y), ", ".join(part for part in name if part)[:44], INK, font)
        value, low, high = (
            left + room * max(0.0, share) for share in (one.interval.value, one.interval.low, one.interval.high)
        )
        draw.rectangle((left, y, value, y + BAR - 1), COLOURS[files.index(one.file) % len(COLOURS)])
        draw.line((low, y + BAR // 2, high, y + BAR // 2), INK, 2)
        label = f"{percent(one.interval.value)} ({percent(one.interval.low)} to {percent(one.interval.high)})"
        draw.text((max(value, high) + 8, y), label, INK, font)
    try:
        picture.save(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
