"""`idefics eval` through the real command line, on files alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import numpy as np
import PIL.Image
import pytest

from idefics_cli.eval.intervals import estimate, find_interval, run_mcnemar, take_mean
from tests.program import Run
from tests.review.rows import make_failed, make_ranked, make_row, read_rows, write_rows

Program = Callable[..., Run]


@pytest.fixture
def ranked(tmp_path: Path) -> Path:
    """Ten cats and ten dogs; eight of each are right, the last row failed."""
    rows = [
        make_ranked(n, *(("cat", 0.9, "dog") if (n < 10) == (n % 5 != 0) else ("dog", 0.8, "cat"))) for n in range(19)
    ]
    return write_rows(tmp_path / "rows.jsonl", [*rows, make_failed(19)])


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    labels = [
        {"image": f"{n}.png", "label": "cat" if n < 10 else "dog", "source": "a" if n % 2 else "b"} for n in range(21)
    ]
    return write_rows(tmp_path / "truth.jsonl", labels)


def read(result: Run) -> dict[str, Any]:
    assert result.code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return {one["metric"]: one for one in document["metrics"] if not one["group"]}


def test_labels_are_measured_with_classes_and_who_was_taken_for_whom(run: Program, ranked: Path, truth: Path) -> None:
    result = run("eval", ranked, "--references", truth)
    assert result.code == 0, result.stderr
    assert "accuracy " in result.stdout
    assert "RIGHT \\ SAID  cat  dog  (none)" in result.stdout
    assert "1 failed rows count as wrong, 1 references have no row" in result.stderr
    found = read(run("eval", ranked, "--references", truth, "--json"))
    assert set(found) == {"accuracy", "f1", "auc", "ap", "ece"}
    accuracy = found["accuracy"]
    assert accuracy["value"] == 75  # 15 of 20
    assert accuracy["low"] < 75 < accuracy["high"]
    assert accuracy["details"]["confusion"]["matrix"] == [[8, 2, 0], [2, 7, 1]]


def test_references_come_as_csv_by_id_and_from_review(run: Program, ranked: Path, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text("id,label\n0.png,dog\n1.png,cat\n", encoding="utf-8-sig")
    assert read(run("eval", ranked, "--references", table, "--json"))["accuracy"]["value"] == 100
    rows = read_rows(ranked)
    changes: list[dict[str, Any]] = [
        {
            **{"id": row["id"], "key": row["key"], "decision": decision, "time": f"{n}"},
            "before": {"text": row["text"], "label": row["label"]},
            "after": {"text": label, "label": label},
        }
        for n, (row, label, decision) in enumerate(
            zip(rows, ["dog", "dog", "cat"], ["accept", "edit", "reject"], strict=False)
        )
    ]
    write_rows(tmp_path / "rows.review.jsonl", changes)
    found = read(run("eval", ranked, "--json"))["accuracy"]
    assert (found["value"], found["cases"]) == (50, 2)


def test_questions_about_one_image_are_told_apart(run: Program, tmp_path: Path) -> None:
    rows = [
        make_row(n, id=f"a.png#{n}", images=["in/a.png"], task="vqa", text=text, fields={"question": question})
        for n, (question, text) in enumerate([("What?", "Two dogs"), ("Where?", "the park")])
    ]
    truth: list[dict[str, Any]] = [
        {"image": "a.png", "question": "Where?", "answers": ["park"] * 3 + ["zoo"] * 7},
        {"image": "a.png", "question": "What?", "answers": [{"answer": "2 dogs"}] * 10},
    ]
    files = write_rows(tmp_path / "r.jsonl", rows), write_rows(tmp_path / "t.jsonl", truth)
    found = read(run("eval", files[0], "--references", files[1], "--json"))
    assert found["vqa"]["value"] == 95  # 1, and (3 * 2/3 + 7 * 1) / 10


def test_captions_of_one_image_add_up(run: Program, tmp_path: Path) -> None:
    said = ["a red circle", "a blue star on white", "two green squares touch"]
    rows = [make_row(n, text=text) for n, text in enumerate(said)]
    truth = [{"image": f"{n % 3}.png", "caption": said[n % 3]} for n in range(6)]
    files = write_rows(tmp_path / "r.jsonl", rows), write_rows(tmp_path / "t.jsonl", truth)
    found = read(run("eval", files[0], "--references", files[1], "--json"))
    # No caption of three words has a group of four.
    assert found["cider"]["value"] == pytest.approx(1000 * (0.75 + 1 + 1) / 3, abs=0.01)
    assert found["bleu"]["value"] == 100
    assert found["rouge"]["value"] == 100


def test_files_are_compared_on_the_same_items(run: Program, ranked: Path, truth: Path, tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other.jsonl", [make_ranked(n, "cat" if n < 10 else "dog", 0.9) for n in range(20)])
    result = run("eval", ranked, other, "--references", truth, "--metric", "accuracy,f1", "--json")
    _, accuracy, _, f1 = json.loads(result.stdout)["metrics"]
    assert accuracy["against_first"]["difference"] == 25
    assert accuracy["against_first"]["test"] == "McNemar"
    assert accuracy["against_first"]["p"] == pytest.approx(2 * 0.5**5)
    assert f1["against_first"]["test"] == "paired bootstrap"
    assert f1["against_first"]["p"] < 0.05
    shown = run("eval", ranked, other, "--references", truth, "--metric", "accuracy").stdout
    assert "+25.0" in shown
    assert "0.062 McNemar" in shown


def test_groups_worst_and_plot(run: Program, ranked: Path, truth: Path, tmp_path: Path) -> None:
    picture, kept = tmp_path / "p.png", tmp_path / "worst.jsonl"
    words = ("eval", ranked, "--references", truth, "--metric", "accuracy")
    result = run(*words, "--by", "source", "--worst", "5", "-o", kept, "--plot", picture)
    assert result.code == 0, result.stderr
    assert "SOURCE" in result.stdout
    ids = [row["id"] for row in read_rows(kept)]
    assert ids == ["0.png", "5.png", "10.png", "15.png", "19.png"]
    assert f"idefics review {kept}" in result.stderr
    with PIL.Image.open(picture) as opened:
        assert len(opened.getcolors(1 << 20) or []) > 3


def test_the_worst_are_corrected_in_review(ranked: Path, truth: Path) -> None:
    words = ("eval", ranked, "--references", truth, "--metric", "accuracy", "--worst", "2", "--review")
    command = [sys.executable, "-m", "idefics_cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = next(line.strip() for line in process.stdout if line.startswith("http://"))
        with httpx2.Client(base_url=address, timeout=60) as client:
            view = {"q": "", "sort": "", "stamp": "1", "count": "60", "facets": "1"}
            while (reply := client.get("rows", params=view).json())["reading"] is not None:
                time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert [row["id"] for row in reply["rows"]] == ["0.png", "5.png"]
    assert reply["count"] == 2
    assert process.returncode == 0, said


def test_a_value_under_what_is_wanted_fails(run: Program, ranked: Path, truth: Path) -> None:
    words = ("eval", ranked, "--references", truth)
    assert run(*words, "--fail-under", "accuracy=75", "--fail-under", "ece=60").code == 0
    result = run(*words, "--fail-under", "accuracy=75.5", "--fail-under", "ece=1")
    assert result.code == 1
    assert "accuracy is 75.00, under 75.5" in result.stderr
    assert ", above 1" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metric", "best"), "there is no metric"),
        (("--fail-under", "accuracy"), "write accuracy=90"),
        (("--by", "nothing"), "have a field 'nothing'"),
        (("--plot", "x.txt"), "is not an image file"),
        (("-o", "x.jsonl"), "add --worst"),
        (("--review",), "add --worst"),
        (("--metric", "fields"), "no reference has `data`"),
        (("--metric", "auc", "--positive", "horse"), "no row ranks 'horse'"),
        (("--references", "missing.jsonl"), "cannot read missing.jsonl"),
    ],
)
def test_what_cannot_be_is_one_line(run: Program, ranked: Path, truth: Path, words: tuple[str, ...], said: str) -> None:
    result = run("eval", ranked, "--references", truth, *words)
    assert result.code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_bad_references_name_their_line(run: Program, ranked: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    for line, said in [("{", "is not JSON"), ('{"id": 1}', "has no answer"), ('{"answer": 1}', "neither")]:
        bad.write_text(line)
        result = run("eval", ranked, "--references", bad)
        assert (result.code, f"{bad} line 1" in result.stderr, said in result.stderr) == (2, True, True)
    assert "no references for the rows" in run("eval", ranked).stderr
    write_rows(bad, [{"id": "elsewhere", "answer": "x"}])
    assert "no row of" in run("eval", ranked, "--references", bad).stderr


def test_intervals_hold_the_truth_nineteen_times_of_twenty() -> None:
    random = np.random.default_rng(7)
    held = 0
    for _ in range(200):
        values = (random.random(60) < 0.7).astype(float)
        interval = find_interval(estimate([take_mean(values)], 60, 200)[0])
        held += interval.low <= 0.7 <= interval.high
    assert 178 <= held <= 200


def test_mcnemar_is_the_binomial_test() -> None:
    assert run_mcnemar(0, 5) == pytest.approx(2 / 32)
    assert run_mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert run_mcnemar(3, 3) == 1
    assert run_mcnemar(40_000, 41_000) == pytest.approx(0.00044, abs=0.0001)


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds(run: Program, tmp_path: Path) -> None:
    random = Random(1)
    words = ["a", "red", "blue", "circle", "star", "on", "white", "ground", "large", "small"]

    def say() -> str:
        return " ".join(random.choices(words, k=9))

    rows = write_rows(tmp_path / "rows.jsonl", (make_row(n, text=say()) for n in range(100_000)))
    truth = write_rows(
        tmp_path / "truth.jsonl",
        ({"id": f"{n}.png", "captions": [say() for _ in range(5)]} for n in range(100_000)),
    )
    began = time.process_time()
    result = run("eval", rows, "--references", truth, "--json")
    assert result.code == 0, result.stderr
    assert time.process_time() - began < 20
