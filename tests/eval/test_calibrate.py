"""A temperature is found, written, read again and applied."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.program import Run
from tests.review.rows import make_row, write_rows
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
LABELS = ("cat", "dog", "fox", "owl")


def write_overconfident(folder: Path, temperature: float, count: int = 2000) -> tuple[Path, Path]:
    """Rows whose log-likelihoods are `temperature` times too far apart, and what is right."""
    random = np.random.default_rng(3)
    rows, truth = [], []
    for number in range(count):
        logits = random.normal(0, 1.5, len(LABELS))
        chances = np.exp(logits) / np.exp(logits).sum()
        right = random.choice(len(LABELS), p=chances)
        shown = np.exp(temperature * logits) / np.exp(temperature * logits).sum()
        scores = [
            {"label": LABELS[n], "logprob": math.log(shown[n]), "probability": shown[n]} for n in np.argsort(-shown)
        ]
        label = scores[0]["label"]
        rows.append(make_row(number, task="classify", text=label, label=label, scores=scores, model="shapes"))
        truth.append({"id": f"{number}.png", "label": LABELS[right]})
    return write_rows(folder / "rows.jsonl", rows), write_rows(folder / "truth.jsonl", truth)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(run: Program, tmp_path: Path, temperature: float) -> None:
    rows, truth = write_overconfident(tmp_path, temperature)
    result = run("calibrate", rows, "--references", truth)
    assert result.code == 0, result.stderr
    fitted = json.loads((tmp_path / "rows.calibration.json").read_text())
    assert fitted == json.loads(result.stdout)
    assert fitted["temperature"] == pytest.approx(temperature, rel=0.1)
    assert fitted["ece_after"] < 0.04
    assert fitted["nll_after"] < fitted["nll_before"] + 0.002
    if temperature == 3:
        assert fitted["ece_before"] > 0.1


def classify(run: Program, image: Path, *words: str | Path) -> Run:
    return run(
        *("classify", image, "--labels", "a,b", "--model", "idefics-9b", "--format", "jsonl", *words),
        backend=ScriptedBackend(),
    )


def write_calibration(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps({"temperature": 2.0, "model": "idefics-9b"} | values))
    return path


def test_it_is_applied_to_probabilities_alone(run: Program, red_circle: Path, tmp_path: Path) -> None:
    path = write_calibration(tmp_path / "c.json")
    first, second = json.loads(classify(run, red_circle, "--calibration", path).stdout)["scores"]
    assert (first["logprob"], second["logprob"]) == (0, -1)
    assert first["probability"] == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert first["probability"] + second["probability"] == pytest.approx(1)


def test_rows_of_another_temperature_are_of_another_run(run: Program, red_circle: Path, tmp_path: Path) -> None:
    rows, path = tmp_path / "rows.jsonl", write_calibration(tmp_path / "c.json")
    assert classify(run, red_circle, "-o", rows, "--calibration", path).code == 0
    assert classify(run, red_circle, "-o", rows, "--calibration", path).code == 0
    write_calibration(path, temperature=3.0)
    assert classify(run, red_circle, "-o", rows, "--calibration", path).code == 2
    assert classify(run, red_circle, "-o", rows).code == 2


def test_what_is_no_calibration_is_one_line(run: Program, red_circle: Path, tmp_path: Path) -> None:
    path = write_calibration(tmp_path / "c.json", model="idefics2")
    other = classify(run, red_circle, "--calibration", path)
    assert (other.code, "was fitted on idefics2, " in other.stderr) == (2, True)
    for text in ("", "[]", '{"temperature": 0, "model": "x"}', '{"temperature": "1"}'):
        path.write_text(text)
        result = classify(run, red_circle, "--calibration", path)
        assert (result.code, len(result.stderr.splitlines())) == (2, 1)
    assert classify(run, red_circle, "--calibration", tmp_path / "none").code == 2


def test_too_little_to_fit_on_is_said(run: Program, tmp_path: Path) -> None:
    rows, truth = write_overconfident(tmp_path, 1.0, 5)
    assert "at least 20 are needed" in run("calibrate", rows, "--references", truth).stderr
    cut = [json.loads(line) for line in rows.read_text().splitlines()]
    write_rows(rows, [row | {"scores": row["scores"][:2]} for row in cut])
    assert "without --top" in run("calibrate", rows, "--references", truth).stderr


def test_answers_that_are_less_sure_than_wanted_carry_a_warning(run: Program, red_circle: Path) -> None:
    (warning,) = json.loads(classify(run, red_circle, "--min-confidence", "0.9").stdout)["warnings"]
    assert warning == "unsure: 0.67 is less than 0.9"
    assert json.loads(classify(run, red_circle, "--min-confidence", "0.6").stdout)["warnings"] == []
    assert classify(run, red_circle, "--min-confidence", "1.1").code == 2
