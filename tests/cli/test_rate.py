"""`idefics rate`: means over a scale, with the embedded checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "idefics_cli" / "shapes" / "samples"


def test_a_rating_is_the_mean_over_its_scale(run: Any) -> None:
    result = run(
        *("rate", str(SAMPLES / "three-shapes.png"), "-q", "How many shapes are there?", "--scale", "1-5"),
        *("--model", "shapes", "--format", "jsonl"),
    )
    assert result.code == 0, result.stderr
    row = json.loads(result.stdout)
    mean = math.fsum(int(score["label"]) * score["probability"] for score in row["scores"])
    assert abs(row["data"] - mean) < 1e-4
    assert abs(row["data"] - 3) < 0.1
    assert row["label"] == "3"


def test_yes_or_no_is_how_likely_a_yes_is(run: Any) -> None:
    names = [str(SAMPLES / name) for name in ("red-circle.png", "blue-star.png")]
    result = run("rate", *names, "-q", "Is there a circle?", "--scale", "yes/no", "--model", "shapes")
    said = dict(line.split("\t") for line in result.stdout.splitlines())
    assert float(said[names[0]]) > 0.9
    assert float(said[names[1]]) < 0.1


def test_a_line_of_a_batch_may_rate(run: Any, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    line = {"task": "rate", "image": str(SAMPLES / "red-circle.png"), "question": "Is there a circle?"}
    items.write_text(json.dumps(line | {"scale": "yes/no"}) + "\n" + json.dumps(line | {"scale": "x"}) + "\n")
    result = run("batch", str(items), "--model", "shapes")
    rated, failed = (json.loads(line) for line in result.stdout.splitlines())
    assert rated["data"] > 0.9
    assert failed["error"]["code"] == "bad_item"


@pytest.mark.parametrize("scale", ["5", "5-1", "1-1", "0-900", "a-b", "-1-3"])
def test_what_is_no_scale_is_one_line(run: Any, scale: str) -> None:
    result = run("rate", "x.png", "-q", "How sharp?", f"--scale={scale}", "--model", "shapes")
    assert result.code == 2
    assert "is not a scale" in result.stderr
    assert len(result.stderr.splitlines()) == 1
