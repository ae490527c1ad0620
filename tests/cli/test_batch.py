"""`idefics batch`: mixed tasks, one item a line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from idefics_cli.values import ImagePart
from tests.program import Run
from tests.scripted import ScriptedBackend
from tests.scripted_program import COMMAND, ROOT

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


def rows(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture
def lines(tmp_path: Path, two_images: tuple[Path, Path]) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text(
        '{"id": "c", "task": "caption", "images": ["a.png"]}\n'
        '{"id": "q", "task": "vqa", "images": ["b.png"], "question": "où?", "max_new_tokens": 5}\n'
        "\n"
        '{"id": "l", "task": "classify", "image": "a.png", "labels": ["red", "blue"]}\n'
        "{oops\n"
        '{"id": "t", "template": "alt-text", "image": "gone.png"}\n'
        '{"task": "vqa", "image": "a.png"}\n'
    )
    return path


def test_each_line_is_a_row_in_order(run: Program, lines: Path, tmp_path: Path) -> None:
    backend = ScriptedBackend()
    result = run("batch", lines, *MODEL, backend=backend)
    found = rows(result)
    assert result.code == 1
    assert [row["id"] for row in found] == ["c", "q", "l", "line 5", "t", "line 7"]
    assert [row["error"] and row["error"]["code"] for row in found] == [
        None, None, None, "bad_item", "not_found", "bad_item",
    ]  # fmt: skip
    assert found[3]["error"]["message"].startswith("line 5: the line is not JSON")
    assert "question" in found[5]["error"]["message"]
    assert [row["task"] for row in found] == ["caption", "vqa", "classify", "", "run", "vqa"]
    assert (found[2]["label"], found[1]["decoding"]["max_new_tokens"]) == ("red", 5)
    assert found[0]["images"] == [str(tmp_path / "a.png")]
    assert "2 of 6 failed" not in result.stderr
    assert "3 of 6 failed (2 bad items, 1 not found)" in result.stderr
    assert [request.task for request in backend.requests] == ["caption", "vqa", "classify"]


def test_a_batch_is_gone_on_with_by_id(run: Program, lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ("batch", lines, *MODEL, "-o", out)
    assert run(*command, backend=ScriptedBackend()).code == 1
    before = out.read_bytes()
    backend = ScriptedBackend()
    again = run(*command, backend=backend)
    assert (again.code, backend.requests, out.read_bytes()) == (1, [], before)
    assert "3 done before, 3 failed before" in again.stderr
    # What was wrong is mended: only that is answered, and its failed rows are gone.
    (tmp_path / "gone.png").write_bytes((tmp_path / "a.png").read_bytes())
    text = lines.read_text().replace("{oops", '{"id": "new", "task": "caption", "image": "b.png"}')
    lines.write_text(
        text.replace('"task": "vqa", "image": "a.png"', '"task": "vqa", "image": "a.png", "question": "?"')
    )
    mended = run(*command, "--existing", "retry-errors", backend=backend)
    assert (mended.code, len(backend.requests)) == (0, 3), mended.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["id"] for row in found) == ["c", "l", "line 7", "new", "q", "t"]
    assert all(row["error"] is None for row in found)
    # The same id with another question is told, not skipped.
    lines.write_text(lines.read_text().replace("où?", "who?"))
    changed = run(*command, backend=backend)
    assert changed.code == 2
    assert "'q' has changed" in changed.stderr


BAD_LINES = """
{"id": 1, "task": "ocr", "image": "a.png"}
{"id": 2, "task": "caption", "image": "a.png", "temprature": 0.5}
{"id": 3, "task": "caption", "image": "a.png", "temprature": "0.5"}
{"id": 4, "task": "vqa", "image": "a.png", "question": ["a", "b"]}
"""
HINTS = (
    'line 2: there is no task \'ocr\'; write "template": "ocr"',
    "line 3: temprature is not known; did you mean temperature?",
    "line 4: template 'caption' has no field temprature; did you mean temperature?",
    "line 5: question is not a text; give one text, or a line for each",
)


def test_bad_lines_are_told_once_before_a_model_is_loaded(run: Program, two_images: tuple[Path, Path]) -> None:
    folder = two_images[0].parent
    (folder / "bad.jsonl").write_text(BAD_LINES)
    (folder / "mixed.jsonl").write_text(f'{{"id": 0, "task": "caption", "image": "a.png"}}{BAD_LINES}')
    opened: list[str] = []

    @dataclass
    class Told(ScriptedBackend):
        def open(self, *how: Any) -> ScriptedBackend:
            sys.stderr.flush()
            opened.append(cast(io.BytesIO, sys.stderr.buffer).getvalue().decode())
            return super().open(*how)

    bad = run("batch", folder / "bad.jsonl", *MODEL, backend=Told())
    assert (bad.code, len(rows(bad)), opened) == (1, 4, [])
    assert "4 of 4 failed (4 bad items)" in bad.stderr
    mixed = run("batch", folder / "mixed.jsonl", *MODEL, backend=Told())
    assert (mixed.code, len(rows(mixed)), len(opened)) == (1, 5, 1)
    for hint in HINTS:
        assert [told.count(hint) for told in (bad.stderr, *opened, mixed.stderr)] == [1, 1, 1], hint
    assert mixed.stderr.count("error:") == 4


def test_shots_of_a_line_and_pictures_beside_the_file(run: Program, tmp_path: Path, two_images: object) -> None:
    line = {"task": "caption", "image": "a.png", "examples": [{"image": "b.png", "answer": "Blue."}]}
    (tmp_path / "items.jsonl").write_text(json.dumps(line))
    backend = ScriptedBackend()
    assert run("batch", tmp_path / "items.jsonl", *MODEL, backend=backend).code == 0
    images = [part.source for part in backend.requests[0].prompt[0].parts if isinstance(part, ImagePart)]
    assert images == [str(tmp_path / "b.png"), str(tmp_path / "a.png")]


def test_standard_input_and_its_ends(run: Program, red_circle: Path) -> None:
    line = json.dumps({"task": "caption", "image": str(red_circle)}).encode()
    result = run("batch", "-", *MODEL, backend=ScriptedBackend(), stdin=line)
    assert rows(result)[0]["text"] == "A red circle."
    assert run("batch", "-", *MODEL, backend=ScriptedBackend()).code == 4
    missing = run("batch", "none.jsonl", *MODEL, backend=ScriptedBackend())
    assert (missing.code, len(missing.stderr.splitlines())) == (2, 1)


def test_a_dry_run_shows_every_prompt(run: Program, lines: Path) -> None:
    result = run("batch", lines, *MODEL, "--dry-run")
    assert result.code == 1
    assert "Question: où? Answer:" in result.stdout
    assert "line 5: the line is not JSON" in result.stderr


def test_a_program_may_ask_and_wait_for_the_answer_line_by_line(red_circle: Path) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([*COMMAND, "batch", "-", *MODEL], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        line = {"id": number, "task": "vqa", "image": str(red_circle), "question": "?"}
        process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == str(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
