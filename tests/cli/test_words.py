"""Messages in plain words: those that the first hour meets, and none of a library's own."""

from __future__ import annotations

import json
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from idefics_cli.errors import AnswerCode, ItemError, PromptCode, SourceCode
from idefics_cli.values import Request
from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "shapes")
LIBRARIES = re.compile(
    r"Value error|Input should|Extra inputs|Field required|validation error|Errno|Invalid value|pydantic"
)
CLOSED = "http://127.0.0.1:9"
"""Nobody listens on the port that discards."""


def ask(run: Program, *words: str | Path) -> Run:
    return run("caption", *words, *MODEL, backend=ScriptedBackend())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{a}", "--temperature", "hot"), "--temperature must be a number, not 'hot'"),
        (("{a}", "--batch-size", "no"), "--batch-size must be a whole number, not 'no'"),
        (("{a}", "--style", "poem"), "--style: 'poem' is not one of 'completion', 'chat'"),
        (("{a}", "--max-new-tokens", "0"), "--max-new-tokens: 0 is not in the range 1 to"),
        (("t/*.jpg",), "no file matches t/*.jpg"),
        ((f"{CLOSED}/a.png",), "cannot be fetched: connection refused"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_mistake_is_told_in_plain_words(run: Program, red_circle: Path, words: tuple[str, ...], said: str) -> None:
    result = ask(run, *(word.format(a=red_circle) for word in words))
    assert said in result.stderr
    assert not LIBRARIES.search(result.stderr), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_device_and_a_server_that_are_not_there(run: Program, red_circle: Path) -> None:
    without = run("caption", red_circle, *MODEL, "--device", "cuda")
    assert "no CUDA GPU here; use --device auto or cpu" in without.stderr
    server = run("caption", red_circle, "--server", CLOSED, "--model", "x", "--server-wait", "0")
    assert "(connection refused)" in server.stderr, server.stderr
    assert server.code == 3


def test_help_says_where_messages_go(run: Program) -> None:
    assert "messages go to stderr" in run("--help").stdout


def test_a_file_of_another_prompt_says_so(run: Program, red_circle: Path, tmp_path: Path) -> None:
    for first, then, said in ((), ("--prompt", "A"), "without"), (("--prompt", "A"), (), "with"):
        rows = tmp_path / f"{said}.jsonl"
        assert ask(run, red_circle, "-o", rows, *first).code == 0
        refused = ask(run, red_circle, "-o", rows, *then)
        assert refused.code == 2
        assert f"line 1 was made {said} --prompt; name another file" in refused.stderr, refused.stderr


def test_failures_are_counted_by_kind_in_english(run: Program, red_circle: Path, tmp_path: Path) -> None:
    """One of a kind and several of it, in the summary and again where they failed before."""
    codes: list[SourceCode | PromptCode | AnswerCode] = [
        *typing.get_args(SourceCode), *typing.get_args(PromptCode), *typing.get_args(AnswerCode)
    ]  # fmt: skip
    codes = list(dict.fromkeys(codes))
    images = [tmp_path / f"{number}.png" for number in range(3 * len(codes))]
    for image in images:
        image.symlink_to(red_circle)

    def fail(request: Request) -> ItemError:
        return ItemError("why", code=codes[int(Path(request.id).stem) % len(codes)])

    def fail_once(request: Request) -> ItemError | str:
        return fail(request) if int(Path(request.id).stem) < len(codes) else " fine"

    words = ("caption", *images, *MODEL, "-o", tmp_path / "rows.jsonl")
    first = run(*words, "--existing", "overwrite", backend=ScriptedBackend(fail_once)).stderr
    for count in ("1 not an image", "1 prompt too long", "1 timeout", "1 failed fetch", "1 not found"):
        assert re.search(rf"[(,] ?{count}[,)]", first), first
    several = run(*words, "--existing", "overwrite", backend=ScriptedBackend(fail)).stderr
    again = run(*words, backend=ScriptedBackend(fail)).stderr
    for told in (several, again):
        for count in (
            *("3 not images", "3 prompts too long", "3 timeouts", "3 failed fetches", "3 not found"),
            *("3 refused", "3 too large", "3 unusable images", "3 prompts with special tokens"),
            *("3 without an image", "3 without a label", "3 invalid outputs", "3 out of memory"),
            *("3 with numbers that are not finite", "3 lost with a worker"),
        ):
            assert re.search(rf"[(,] ?{count}[,;)]", told), told


@pytest.mark.parametrize(
    "line",
    [
        {"task": "caption", "images": "a.jpg"},
        {"task": "caption", "image": 3},
        {"task": "vqa", "image": "a.png", "question": 7},
        {"id": True, "task": "caption"},
        {"task": "caption", "image": "a.png", "num_beams": "2"},
        {"task": "caption", "image": "a.png", "examples": [{"image": "b.png"}]},
        {"task": "caption", "image": "a.png", "temperature": "hot"},
    ],
    ids=str,
)
def test_a_line_is_refused_in_plain_words(run: Program, tmp_path: Path, line: dict[str, object]) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps(line))
    result = run("batch", items, *MODEL, backend=ScriptedBackend())
    assert result.code in (1, 2)
    assert not LIBRARIES.search(result.stderr + result.stdout), result.stderr + result.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("models.yaml", "mine: {repo: 3}\n"),
        ("models.yaml", "mine: {repo: a/b, architecture: idefics2, colour: red}\n"),
        ("templates/own.yaml", "name: own\nversion: one\ndescription: d\nchat: {turn: [image]}\n"),
        ("templates/own.yaml", "name: own\nversion: 1\ndescription: d\nchat: {turns: [image]}\n"),
        ("config.yaml", "temperature: hot\n"),
    ],
)
def test_settings_are_refused_in_plain_words(run: Program, red_circle: Path, name: str, content: str) -> None:
    path = Path(os.environ["IDEFICS_CONFIG_DIR"], name)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    result = run("run", "own", red_circle, *MODEL, backend=ScriptedBackend())
    assert result.code == 2
    assert not LIBRARIES.search(result.stderr), result.stderr
    assert len(result.stderr.splitlines()) == 1
