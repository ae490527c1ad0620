"""Where an option's value comes from, and what a wrong one says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import Run
from tests.scripted import ScriptedBackend

Program = Callable[..., Run]
MODEL = ("--model", "idefics-9b")


def new_tokens(run: Program, image: Path, *arguments: str) -> int:
    backend = ScriptedBackend()
    result = run("caption", image, *MODEL, *arguments, backend=backend)
    assert result.code == 0, result.stderr
    return backend.requests[0].decoding.max_new_tokens


@pytest.fixture
def config_file() -> Path:
    folder = Path(os.environ["IDEFICS_CONFIG_DIR"])
    folder.mkdir()
    return folder / "config.yaml"


def test_flag_beats_environment_beats_file_beats_template(run: Program, red_circle: Path, config_file: Path) -> None:
    assert new_tokens(run, red_circle) == 40  # what caption.yaml says
    config_file.write_text("max-new-tokens: 31\n")
    assert new_tokens(run, red_circle) == 31
    os.environ["IDEFICS_MAX_NEW_TOKENS"] = "32"
    assert new_tokens(run, red_circle) == 32
    assert new_tokens(run, red_circle, "--max-new-tokens", "33") == 33


def test_the_file_may_hold_flags_lists_and_the_model(run: Program, red_circle: Path, config_file: Path) -> None:
    config_file.write_text("quiet: true\nstop: [a b, c]\nmodel: smolvlm\ntop: 2\n")
    backend = ScriptedBackend()
    assert run("caption", red_circle, backend=backend).code == 0
    assert backend.requests[0].decoding.stop == ("a b", "c")
    assert backend.spec.checkpoint == "HuggingFaceTB/SmolVLM-Instruct"


def test_the_file_reaches_commands_within_commands(run: Program, config_file: Path) -> None:
    config_file.write_text("tokens: 77\nformat: jsonl\n")
    assert '"tokens": 77' in run("models", "info", "smolvlm").stdout
    assert '"tokens": 78' in run("models", "info", "smolvlm", "--tokens", "78").stdout


def test_memory_by_device_and_the_quantized_cache_reach_the_spec(
    run: Program, red_circle: Path, config_file: Path
) -> None:
    backend = ScriptedBackend()
    config_file.write_text("no-quantized-cache: true\n")
    spread = ("--max-memory", "0=20GiB, 1=1.5GB,cpu=60000M")
    assert run("caption", red_circle, *MODEL, *spread, backend=backend).code == 0
    assert backend.spec.max_memory == (("0", 20 * 2**30), ("1", 1_500_000_000), ("cpu", 60_000_000_000))
    assert not backend.spec.keeps_quantized
    os.environ["IDEFICS_MAX_MEMORY"] = "cpu=1G"
    again = ScriptedBackend()
    assert run("caption", red_circle, *MODEL, "--device", "cpu", backend=again).code == 0
    assert again.spec.max_memory == (("cpu", 10**9),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-memory", "20GB"), "cannot be read at '20GB'; write it as 0=20GiB"),
        (("--max-memory", "0=20GB,gpu=1GB"), "cannot be read at 'gpu=1GB'"),
        (("--max-memory", "0=1GB,0=2GB"), "cannot be read at '0=2GB'"),
        (("--max-memory", "0=much"), "cannot be read at '0=much'"),
        (
            ("--max-memory", "0=1GB", "--device", "cuda:1"),
            "--device cuda:1 cannot be combined; give one of them",
        ),
    ],
)
def test_memory_that_cannot_be_read_is_told(
    words: tuple[str, ...], message: str, run: Program, red_circle: Path
) -> None:
    result = run("caption", red_circle, *MODEL, *words, backend=ScriptedBackend())
    assert (result.code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_several_values_in_one_variable_are_lines(run: Program, red_circle: Path) -> None:
    os.environ["IDEFICS_QUESTION"] = "What is it?\nWhich colour?"
    backend = ScriptedBackend()
    run("vqa", red_circle, *MODEL, backend=backend)
    assert [dict(request.fields)["question"] for request in backend.requests] == [
        "What is it?",
        "Which colour?",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("max-new-token: 3", "no option 'max-new-token'"),
        ("max-new-tokens: many", "many"),
        ("max-new-tokens: 0", "0"),
        ("max-new-tokens: true", "True"),
        ("max-new-tokens: [1, 2]", "one value"),
        ("quiet: 3", "3"),
        ("stop: {a: b}", "stop"),
        ("format: yaml", "yaml"),
        ("- a", "option: value"),
        ("a: [", "line"),
    ],
)
def test_a_mistake_in_the_file_names_the_file(
    run: Program, red_circle: Path, config_file: Path, content: str, reason: str
) -> None:
    config_file.write_text(content + "\n")
    result = run("caption", red_circle, *MODEL, backend=ScriptedBackend())
    assert result.code == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(config_file) in result.stderr
    assert reason in result.stderr


def test_a_mistake_in_the_environment_names_the_variable(run: Program, red_circle: Path) -> None:
    os.environ["IDEFICS_NUM_BEAMS"] = "two"
    result = run("caption", red_circle, *MODEL, backend=ScriptedBackend())
    assert result.code == 2
    assert result.stderr.startswith("idefics: error: IDEFICS_NUM_BEAMS: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-such-option",),
        ("--format", "xml"),
        ("--num-beams", "0"),
        ("--temperature", "nan"),
        ("--top-p", "0"),
        ("--template", "nowhere"),
        ("--examples", "nowhere.jsonl"),
        ("--prompt", "\udcff"),
        ("--output", "."),
        ("--revision",),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(run: Program, red_circle: Path, arguments: tuple[str, ...]) -> None:
    backend = ScriptedBackend()
    result = run("caption", red_circle, *MODEL, *arguments, backend=backend)
    assert (result.code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("idefics: error: ")
    assert backend.requests == []


def test_unknown_commands_are_one_line(run: Program) -> None:
    result = run("captoin")
    assert result.code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "caption" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            "caption",
            "vqa",
            "classify",
            "rate",
            "extract",
            "write",
            "run",
            "batch",
            "chat",
            "serve",
            "review",
            "merge",
            "plan",
            "eval",
            "convert",
            "find",
            "calibrate",
            "doctor",
            "templates",
        ),
        *("bench", "models", "models list", "models info", "models pull", "models remove"),
    ],
)
def test_golden_help(run: Program, golden: Callable[[str, str], None], command: str) -> None:
    result = run(*command.split(), "--help")
    assert (result.code, result.stderr) == (0, "")
    golden(f"help/{command.replace(' ', '-') or 'idefics'}.txt", result.stdout)


def test_no_arguments_show_the_help_and_version_is_known(run: Program) -> None:
    assert run().stdout == run("--help").stdout
    assert run("--version").stdout.startswith("idefics 0.")
