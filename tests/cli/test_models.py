"""`idefics models` and `--model auto` through the program, with what is downloaded made up in the cache."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from idefics_cli.config import load_packaged_models
from idefics_cli.models.hub.cache import repo_folder
from tests.models.hub.test_cache import REPO, SETTINGS, store
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
SMALL = "HuggingFaceTB/SmolVLM-256M-Instruct"


def rows_of(run: Program, *arguments: str) -> dict[str, Any]:
    result = run("models", *arguments, "--format", "jsonl")
    assert result.code == 0, result.stderr
    return {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}


def test_list_says_what_there_is_what_is_here_and_what_fits(run: Program) -> None:
    listed = run("models")
    assert listed.code == 0
    assert listed.stdout == run("models", "list").stdout
    assert "GB free" in listed.stderr
    head, *lines = listed.stdout.splitlines()
    assert head.split() == ["NAME", "WEIGHTS", "ON", "DISK", "FITS", "AN", "IMAGE", "RUNS", "LICENCE"]
    assert [line.split()[0] for line in lines][:2] == ["idefics3", "idefics2"]
    assert "built in" in lines[-1]
    rows = rows_of(run, "list")
    assert rows["smolvlm-256m"]["weight_bytes"]["bf16"] == 512_969_856
    assert rows["idefics-80b"]["cache_bytes_per_token"] == 2560 * 1024
    assert rows["idefics-9b"]["licence"].startswith("other (non-commercial")
    assert rows["shapes"]["fit"]["need_bytes"] <= rows["shapes"]["fit"]["free_bytes"]
    assert rows["shapes"]["seconds"] < rows["smolvlm-256m"]["seconds"] or rows["smolvlm-256m"]["seconds"] is None
    assert {row["runs"] for row in rows.values()} == {"own adapter", "templated"}
    assert rows["qwen3-vl-4b"]["runs"] == "templated"
    assert rows["qwen3-vl-4b"]["weight_bytes"]["bf16"] == 2 * 4_437_815_808
    assert rows["qwen3-vl-4b"]["seconds"] is None or rows["qwen3-vl-4b"]["seconds"] > 0
    assert not rows["idefics2"]["downloaded"]
    store(REPO, *SETTINGS, "model.safetensors", config=load_packaged_models()["idefics2"].config)
    assert rows_of(run, "list")["idefics2"]["downloaded"]


def test_another_architecture_is_measured_by_the_headers_of_its_weights(run: Program, tmp_path: Path) -> None:
    """Nothing that is in the cache can fail the list."""
    store("org/other", *SETTINGS, config={"model_type": "other", "vision_config": {}, "hidden_size": 64})
    snapshot = next((repo_folder("org/other") / "snapshots").iterdir())
    save_file({"w": numpy.zeros((30, 40), numpy.float16)}, snapshot / "model.safetensors")
    store("org/broken", *SETTINGS, config={"model_type": "idefics2", "text_config": {"hidden_size": "wide"}})
    rows = rows_of(run, "list")
    assert rows["org/other"]["parameters"] == 1200
    assert rows["org/broken"]["parameters"] is None
    assert run("models", "info", str(snapshot)).code == 0


def test_lists_and_removal_need_no_torch() -> None:
    store(SMALL, *SETTINGS)
    code = (
        "import sys; from idefics_cli.cli.app import execute; "
        "lines = ('list', 'info idefics2 --offline', 'remove smolvlm-256m --yes'); "
        "codes = [execute(['models', *line.split()]) for line in lines]; "
        "heavy = {'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys(); sys.exit(str((codes, heavy)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stderr.splitlines()[-1] == "([0, 0, 0], set())"
    assert not repo_folder(SMALL).exists()


def test_info_shows_the_formula_with_its_numbers(run: Program) -> None:
    result = run("models", "info", "idefics2", "--tokens", "100", "--batch-size", "4", "--images", "2")
    assert result.code == 0
    assert "8.40 B weights, idefics2, chat, Apache-2.0, en; not downloaded" in result.stdout
    assert "for 4 at a time, each with 100 tokens; images: 2 of 320 tokens" in result.stdout
    assert "8,402,768,112 x 2 = 16.81 GB" in result.stdout
    assert "idefics, completion, Apache-2.0, en; built in" in run("models", "info", "shapes").stdout
    assert "740 tokens x 4 x 2 x 32 layers x 1024 x 2 = 0.39 GB" in result.stdout
    row = rows_of(run, "info", "idefics2", "--tokens", "100", "--batch-size", "4", "--images", "2")["idefics2"]
    memory = row["memory"]["bf16"]
    assert memory["cache_bytes"] == 740 * 4 * row["cache_bytes_per_token"]
    assert memory["total_bytes"] == sum(memory[part] for part in ("weight_bytes", "cache_bytes", "activation_bytes"))
    assert row["memory"]["4bit"]["weight_bytes"] < row["memory"]["8bit"]["weight_bytes"] < memory["weight_bytes"]
    high = rows_of(run, "info", "idefics2", "--detail", "high")["idefics2"]["memory"]["bf16"]
    low = rows_of(run, "info", "idefics2", "--detail", "low")["idefics2"]["memory"]["bf16"]
    assert high["cache_bytes"] - low["cache_bytes"] == 4 * 64 * row["cache_bytes_per_token"]


def test_info_of_a_folder_reads_its_config(run: Program, tmp_path: Path) -> None:
    assert "has no config.json" in run("models", "info", str(tmp_path)).stderr
    (tmp_path / "config.json").write_text('{"model_type": "idefics"}')
    assert "WEIGHTS" in run("models", "info", str(tmp_path)).stdout
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    result = run("models", "info", str(tmp_path))
    assert result.code == 3
    assert "'llava'; known: idefics" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("info", "smolvml"), 3, "did you mean smolvlm"),
        (("info", "./nowhere"), 3, "not a folder"),
        (("info", "someone/else", "--offline"), 3, "run without --offline"),
        (("info", "smolvlm", "--tokens", "0"), 2, "--tokens"),
        (("remove", "shapes"), 2, "not a download"),
        (("remove", "smolvlm"), 4, "not downloaded"),
        (("pull", "shapes"), 2, "nothing to download"),
        (("pull", "qqq"), 3, "known: "),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Program, arguments: tuple[str, ...], code: int, reason: str) -> None:
    result = run("models", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == 1
    assert reason in result.stderr


def test_nothing_is_removed_without_a_yes(run: Program) -> None:
    store(SMALL, *SETTINGS)
    result = run("models", "remove", "smolvlm-256m")
    assert result.code == 2
    assert "--yes" in result.stderr
    assert repo_folder(SMALL).is_dir()
    assert _answer("n\n") == 1
    assert repo_folder(SMALL).is_dir()
    assert _answer("y\n") == 0
    assert not repo_folder(SMALL).exists()


def _answer(words: str) -> int:
    """The exit code of a removal that is asked about on a terminal."""
    ours, theirs = pty.openpty()
    os.write(ours, words.encode())
    process = subprocess.run(
        [sys.executable, "-m", "idefics_cli", "models", "remove", "smolvlm-256m"],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    os.close(theirs)
    os.close(ours)
    assert "[y/N]" in process.stderr
    return process.returncode


def test_auto_takes_what_is_downloaded_and_says_why(run: Program, red_circle: Path) -> None:
    for arguments in ((), ("--model", "auto")):
        backend = ScriptedBackend()
        result = run("caption", red_circle, *arguments, backend=backend)
        assert result.code == 3
        assert "--model shapes" in result.stderr
        assert "idefics models pull" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    store(SMALL, *SETTINGS, "model.safetensors", config=load_packaged_models()["smolvlm-256m"].config)
    backend = ScriptedBackend()
    result = run("caption", red_circle, "--device", "cpu", backend=backend)
    assert result.code == 0
    assert "using smolvlm-256m, fp32 in RAM, --detail low (needs 1.17 GB of" in result.stderr
    assert (backend.spec.checkpoint, backend.spec.dtype, backend.spec.quantization) == (SMALL, "auto", None)
    assert " an image)" in result.stderr
    assert backend.spec.detail == "low"
    backend = ScriptedBackend()
    run("caption", red_circle, "--device", "cpu", "--4bit", "--dtype", "bf16", backend=backend)
    assert (backend.spec.dtype, backend.spec.quantization) == ("bf16", "4bit")


def test_auto_refuses_when_nothing_fits(run: Program, red_circle: Path) -> None:
    huge = {"model_type": "idefics", "hidden_size": 2**20}
    store("HuggingFaceM4/idefics-80b", *SETTINGS, "model.safetensors", config=huge)
    result = run("caption", red_circle)
    assert result.code == 3
    assert "no model fits (" in result.stderr
    assert len(result.stderr.splitlines()) == 1
