"""`--dry-run`: prompts without weights, and without anything downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.program import Run

Program = Callable[..., Run]


def test_named_models_render_with_nothing_downloaded(run: Program, red_circle: Path) -> None:
    base = run("vqa", red_circle, "-q", "Why?", "--dry-run", "--model", "idefics-9b")
    assert base.stdout == (
        "<s>Instruction: Provide an answer to the question. Use the image to answer.\n"
        "<fake_token_around_image><image><fake_token_around_image>Question: Why? Answer:\n"
    )
    assert (base.code, base.stderr) == (0, "")
    chat = run("vqa", red_circle, "-q", "Why?", "--dry-run", "--model", "smolvlm")
    assert chat.stdout == "<|im_start|>User:<image>Why?<end_of_utterance>\nAssistant:\n"


def test_several_prompts_are_apart_and_jsonl_is_for_programs(run: Program, two_images: tuple[Path, Path]) -> None:
    command = ("caption", *two_images, "--dry-run", "--model", "idefics2")
    assert len(run(*command).stdout.split("\n\n")) == 2
    rows = [json.loads(line) for line in run(*command, "--format", "jsonl").stdout.splitlines()]
    assert [row["id"] for row in rows] == [str(image) for image in two_images]
    assert rows[0]["prompt_tokens"] is None


def test_what_could_not_run_fails_here_too(run: Program, tmp_path: Path, red_circle: Path) -> None:
    missing = run("caption", tmp_path / "gone.png", "--dry-run", "--model", "idefics-9b")
    assert missing.code == 1
    assert missing.stdout == "<s><fake_token_around_image><image><fake_token_around_image>\n"
    assert "gone.png" in missing.stderr
    marker = run("vqa", red_circle, "-q", "a <image> b", "--dry-run", "--model", "idefics-9b")
    assert (marker.code, marker.stdout) == (1, "")
    assert "<image>" in marker.stderr
