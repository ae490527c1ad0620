"""`idefics extract` and answers of a format, with the embedded checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from idefics_cli.prompts.answer_format import check_schema, parse_regex, read_data
from tests.scripted import ScriptedBackend

SAMPLES = Path(__file__).parents[2] / "idefics_cli" / "shapes" / "samples"
CIRCLE = str(SAMPLES / "red-circle.png")
STAR = str(SAMPLES / "blue-star.png")
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}


def test_extract_prints_json_that_the_schema_takes(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "scene.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    result = run("extract", CIRCLE, STAR, "--schema", str(file), "--model", "shapes", "--format", "jsonl")
    assert result.code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["id"] for row in rows] == [CIRCLE, STAR]
    for row in rows:
        jsonschema_rs.validator_for(SCHEMA).validate(row["data"])
        assert json.loads(row["text"]) == row["data"]
        assert row["template"] == "extract@1"
        assert row["fields"] == {}
        assert row["confidence"]["min_logprob"] <= row["confidence"]["mean_logprob"] < 0
    text = run("extract", CIRCLE, "--schema", json.dumps(SCHEMA), "--model", "shapes")
    assert json.loads(text.stdout) == rows[0]["data"]
    assert " " not in text.stdout.strip()


def test_choices_and_patterns_are_kept_to_the_letter(run: Any) -> None:
    question = ("-q", "What colour is the circle?", "--model", "shapes")
    assert run("vqa", CIRCLE, *question, "--choices", "blue,red").stdout == "red\n"
    assert run("vqa", CIRCLE, *question, "--regex", "(dark )?(blue|green)").stdout in ("blue\n", "green\n")


@pytest.mark.parametrize("said", [" a", "  a"])
def test_a_pattern_may_begin_with_a_space(said: str) -> None:
    assert read_data(parse_regex(" a"), said) == " a"


def test_beams_keep_to_a_schema_too(run: Any) -> None:
    words = ("extract", CIRCLE, "--schema", json.dumps(SCHEMA), "--model", "shapes", "--num-beams", "2")
    result = run(*words)
    assert result.code == 0, result.stderr
    jsonschema_rs.validator_for(SCHEMA).validate(json.loads(result.stdout))
    drawn = run(*words, "--temperature", "0.7")
    assert drawn.code == 2
    assert "sampling with beams cannot follow a format" in drawn.stderr


def test_an_answer_that_its_limit_cuts_off_is_no_answer(run: Any) -> None:
    result = run(
        *("extract", CIRCLE, "--fields", "story", "--max-new-tokens", "6"),
        "--model",
        "shapes",
        "--format",
        "jsonl",
    )
    assert result.code == 1
    row = json.loads(result.stdout)
    assert row["error"]["code"] == "invalid_output"
    assert row["data"] is None
    assert "--max-new-tokens" in row["error"]["message"]


def test_formats_may_stand_in_batch_lines_and_templates(run: Any, tmp_path: Path) -> None:
    template = {"name": "tint", "version": 1, "description": "Name the colour."}
    wording = {
        "chat": {"turn": ["image", "What colour is the circle?"]},
        "output": {"choices": ["blue", "red"]},
    }
    (tmp_path / "tint.yaml").write_text(json.dumps(template | wording), encoding="utf-8")
    lines: list[dict[str, Any]] = [
        {"task": "extract", "image": CIRCLE, "schema": SCHEMA},
        {
            "task": "vqa",
            "image": CIRCLE,
            "question": "What colour is the circle?",
            "choices": ["blue", "red"],
        },
        {"task": "vqa", "image": CIRCLE, "question": "What colour is the circle?", "schema": {"not": {}}},
        {"template": "./tint.yaml", "image": CIRCLE},
    ]
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result = run("batch", str(items), "--model", "shapes", "--style", "chat")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.code == 1
    jsonschema_rs.validator_for(SCHEMA).validate(rows[0]["data"])
    assert [row["data"] for row in rows[1:]] == ["red", None, "red"]
    assert "'not'" in rows[2]["error"]["message"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--schema", '{"not": {}}'), "'not' is not enforced"),
        (("--schema", '{"type": "array", "uniqueItems": true}'), "'uniqueItems' is not enforced"),
        (("--schema", '{"type": 3}'), "cannot be enforced"),
        (("--schema", "{"), "is not JSON"),
        (("--schema", "none.json"), "No such file"),
        (("--schema", '{"type": "string", "minLength": 9000}', "--max-new-tokens", "50"), "50 tokens"),
        (("--schema", '{"$ref": "#"}'), "without end"),
        (
            ("--schema", '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}'),
            "without end",
        ),
        (("--schema", '{"type": "integer", "minimum": 5, "maximum": 3}'), "no answer meets the schema"),
        (
            ("--schema", '{"type": "string", "pattern": "^a{5,}$", "maxLength": 3}'),
            "no text is as its pattern",
        ),
        (("--schema", '{"type": "string", "format": "date", "maxLength": 5}'), "no text is as its pattern"),
        (("--schema", '{"allOf": [{"enum": ["a"]}, {"enum": ["b"]}]}'), "no answer meets the schema"),
        (
            ("--schema", '{"type": "object", "required": ["x"], "additionalProperties": false}'),
            "no answer meets",
        ),
        (
            ("--schema", '{"additionalProperties": {"$ref": "#"}, "minProperties": 1, "type": "object"}'),
            "end",
        ),
        (("--schema", '{"patternProperties": {"a[^\\\\s\\\\S]": {}}}'), "no text matches the pattern"),
        (("--fields", "a, a"), "twice"),
        (("--fields", "a:colour"), "'colour' is not a kind of field"),
        (("--fields", "a", "--schema", "{}"), "needs either --schema or --fields"),
        ((), "needs either --schema or --fields"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_before_a_model_is_loaded(
    run: Any, flags: tuple[str, ...], said: str
) -> None:
    result = run("extract", CIRCLE, *flags, "--model", "shapes")
    assert result.code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--regex", "(a"), "cannot be enforced"),
        (("--regex", "a(?=b)"), "cannot be enforced"),
        (("--regex", r"[^\x00-\U0010FFFF]"), "no text matches the regex"),
        (("--regex", r"[a-z]{2,9}[^\s\S]"), "no text matches the regex"),
        (("--regex", "a{5000}", "--max-new-tokens", "10"), "no answer of 10 tokens"),
    ],
)
def test_a_pattern_that_cannot_end_is_refused_before_a_model_is_loaded(
    run: Any, flags: tuple[str, ...], said: str
) -> None:
    result = run("vqa", CIRCLE, "-q", "What?", *flags, "--model", "shapes")
    assert result.code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_schema_may_be_within_itself_where_there_is_a_way_out() -> None:
    leaf = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    node = {"type": "object", "properties": {"next": leaf}, "required": ["next"]}
    check_schema({"$ref": "#/$defs/node", "$defs": {"node": node}})
    check_schema({"type": "array", "items": {"$ref": "#"}})


def test_choices_of_several_images_are_counted_at_the_end(run: Any, two_images: Any) -> None:
    backend = ScriptedBackend(lambda request: " red" if "a.png" in request.images[0] else " blue")
    words = ("vqa", *two_images, two_images[0], "-q", "Colour?", "--choices", "red,blue")
    result = run(*words, "--model", "idefics-9b", backend=backend)
    assert result.code == 0, result.stderr
    assert [line.split()[1:] for line in result.stderr.splitlines()[-2:]] == [["red", "2"], ["blue", "1"]]
