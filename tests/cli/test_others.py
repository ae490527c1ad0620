"""Other architectures through the program: sizes, prompts, answers, labels, a conversation, weights in fewer bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.models.others import ALL, other
from tests.program import Run

Program = Callable[..., Run]
SOME = ("qwen3_vl", "gemma3", "gemma4")
NAMES = [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in ALL]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    PIL.Image.effect_noise((60, 40), 80).convert("RGB").save(path)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_described_asked_and_talked_to(run: Program, photo: str, name: str) -> None:
    model = ("--model", str(other(name)))
    info = run("models", "info", str(other(name)), "--format", "jsonl")
    assert info.code == 0, info.stderr
    shown = run("vqa", photo, "-q", "What is this?", "--dry-run", *model)
    assert shown.code == 0, shown.stderr
    assert "What is this?" in shown.stdout
    asked = run(
        "vqa",
        photo,
        "-q",
        "What is this?",
        "-q",
        "And?",
        "--max-new-tokens",
        "4",
        "--format",
        "jsonl",
        *model,
    )
    assert asked.code == 0, asked.stderr
    rows = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [row["error"] for row in rows] == [None, None]
    ranked = run("classify", photo, "--labels", "red,blue,a red dog", "--format", "jsonl", *model)
    assert ranked.code == 0, ranked.stderr
    assert len(json.loads(ranked.stdout)["scores"]) == 3
    talked = run("chat", photo, "--max-new-tokens", "4", "--format", "jsonl", *model, stdin=b"What?\nAnd now?\n")
    assert talked.code == 0, talked.stderr
    assert len(talked.stdout.splitlines()) == 2


@pytest.mark.parametrize("bits", ["4bit", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_held_in_fewer_bits(run: Program, photo: str, name: str, bits: str) -> None:
    words = ("--max-new-tokens", "3", "--quantize", bits, "--no-quantized-cache", "--device", "cpu")
    answered = run("vqa", photo, "-q", "What?", *words, "--model", str(other(name)))
    assert answered.code == 0, answered.stderr
