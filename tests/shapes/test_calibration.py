"""Probabilities of labels are honest once a temperature is fitted on rows that were never trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from idefics_cli.shapes.training.scenes import KINDS, paint, sample_scene
from tests.program import Run

SCENES = 500
MOST_ERROR = 0.02


@pytest.mark.slow
def test_labels_are_as_likely_as_they_say(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    truth = []
    for number in range(SCENES):
        random = Random(f"calibrate:{number}")
        scene = sample_scene(random, 1)
        paint(scene, random).save(tmp_path / "in" / f"{number:03}.png")
        truth.append({"image": str(tmp_path / "in" / f"{number:03}.png"), "label": scene.shapes[0].kind})
    (tmp_path / "truth.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in truth))
    rows = tmp_path / "rows.jsonl"
    asked = ("classify", tmp_path / "in", "--labels", ",".join(KINDS), "-o", rows, "--model", "shapes")
    assert run(*asked).code == 0
    fitted = run("calibrate", rows, "--references", tmp_path / "truth.jsonl")
    assert fitted.code == 0, fitted.stderr
    assert json.loads(fitted.stdout)["rows"] >= SCENES * 0.95
    assert json.loads(fitted.stdout)["ece_after"] <= MOST_ERROR
