"""What a big run will take: which step is the slowest, and where each figure is from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import Run

Command = Callable[..., Run]


def test_the_model_is_waited_for_where_there_are_few_workers_and_the_command_where_there_are_many(
    run: Command, two_images: tuple[Path, Path]
) -> None:
    words = (
        "plan",
        *two_images,
        "--model",
        "smolvlm",
        "--gpu",
        "h100",
        "--count",
        "1000000",
        "--format",
        "jsonl",
    )
    few, many = (json.loads(run(*words, "--workers", count).stdout) for count in ("8", "100000"))
    assert [step["name"] for step in few["steps"]] == ["fetch", "preparation", "model", "driver"]
    assert (few["bottleneck"], many["bottleneck"]) == ("model", "driver")
    assert few["images"] == 1_000_000
    assert few["hours"] == pytest.approx(1_000_000 / few["images_per_second"] / 3600)
    assert many["steps"][2]["each_second"] == pytest.approx(few["steps"][2]["each_second"] * 12_500)


def test_rows_of_a_run_tell_what_an_answer_takes(run: Command, red_circle: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"id": str(n), "seconds": seconds, "error": None} for n, seconds in enumerate((0.1, 0.3))]
    failed = {"id": "2", "seconds": 9.0, "error": {"code": "timeout", "message": ""}}
    rows.write_text("".join(json.dumps(line) + "\n" for line in (*lines, failed)))
    result = run("plan", red_circle, "--rows", rows, "--workers", "10", "--count", "180000")
    assert "50/s" in result.stdout, result.stderr
    last = result.stdout.splitlines()[-1]
    assert " ".join(last.split()) == "in all 50/s 1.0 h; the model is what it waits for"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("--count", "10", "--gpu", "h1", "--model", "shapes"),
            2,
            "--gpu h1 is not known; write one of a10, a100",
        ),
        (("--model", "shapes"), 4, "no images given"),
        (("--count", "10", "--rows", "none.jsonl"), 2, "cannot read none.jsonl"),
        (("gone.png", "--model", "shapes"), 0, "none of 1 images could be read (gone.png cannot be read"),
    ],
)
def test_what_cannot_be_planned_is_told(run: Command, words: tuple[str, ...], code: int, said: str) -> None:
    result = run("plan", *words)
    assert (result.code, said in result.stderr) == (code, True), result.stderr
