"""The lines of a batch file: what each asks, and what is wrong with it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from idefics_cli.errors import BadItem, ItemError
from idefics_cli.prompts.items import ItemReader
from idefics_cli.values import Decoding, ImagePart, Item, TextPart


def read(*lines: dict[str, Any] | bytes, folder: str = "sub", **settings: Any) -> list[Item]:
    reader = ItemReader(Path(folder), settings, has_stdin=False)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return list(reader.read(enumerate(raw, 1)))


def test_a_line_says_all_that_is_asked() -> None:
    (item,) = read(
        {
            "id": 7,
            "task": "vqa",
            "images": ["a.jpg", "/b.jpg", "https://c.org/c.jpg"],
            "question": "où?",
            "max_new_tokens": 5,
            "stop": ["."],
            "examples": [{"image": "s.jpg", "fields": {"question": "who?"}, "answer": "me"}],
        }
    )
    assert (item.id, item.is_named, item.task, item.template) == ("7", True, "vqa", "vqa@1")
    assert item.images == ("sub/a.jpg", "/b.jpg", "https://c.org/c.jpg")
    assert item.fields == (("question", "où?"),)
    assert item.decoding == Decoding(max_new_tokens=5, stop=(".",))
    assert item.examples[0].images == ("sub/s.jpg",)


def test_fields_and_decoding_may_stand_within_objects_as_in_rows() -> None:
    (item,) = read({"task": "vqa", "image": "a.jpg", "fields": {"question": "a"}, "decoding": {"seed": 3}})
    assert (item.id, item.is_named, item.fields) == ("line 1", False, (("question", "a"),))
    assert item.decoding.seed == 3


def test_the_line_wins_over_the_options_and_these_over_the_template() -> None:
    plain, own = read(
        {"task": "caption", "image": "a"},
        {"task": "caption", "image": "a", "num_beams": 4},
        num_beams=2,
        top_k=9,
    )
    assert (plain.decoding.num_beams, plain.decoding.top_k, plain.decoding.max_new_tokens) == (2, 9, 40)
    assert (own.decoding.num_beams, own.decoding.top_k) == (4, 9)


def test_labels_are_ranked_or_asked_for() -> None:
    ranked, asked = read(
        {"task": "classify", "image": "a", "labels": ["x", "y"], "max_new_tokens": 3},
        {"task": "classify", "image": "a", "labels": ["x", "y"], "generate": True},
    )
    assert (ranked.labels, ranked.is_ranked, ranked.decoding) == (("x", "y"), True, Decoding())
    assert ranked.fields == (("labels", "['x', 'y']"),)
    assert not asked.is_ranked


def test_a_caption_with_a_prompt_uses_the_prompted_template() -> None:
    (item,) = read({"task": "caption", "image": "a", "prompt": "A photo of"})
    assert item.template == "caption-prompted@1"


def test_templates_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "name: mine\nversion: 2\ndescription: d\nfields: [who]\ncompletion: {turn: [image, 'Find $who:']}\n"
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(text.replace("Find", "Seek"))
    reader = ItemReader(tmp_path, {}, has_stdin=True)
    lines = [
        {"template": "./mine.yaml", "image": "a.png", "who": "$me"},
        {"template": "./mine.yaml", "image": "a.png"},
        {"template": "./other.yaml", "image": "a.png", "who": "me"},
    ]
    good, lacking, other = reader.read((n, json.dumps(line).encode()) for n, line in enumerate(lines, 1))
    assert (good.task, good.template) == ("run", "mine@2")
    parts = reader.compose(good, "completion").prompt[0].parts
    assert parts == (ImagePart(f"{tmp_path}/a.png"), TextPart("Find $me:"))
    with pytest.raises(BadItem, match="needs a value for who"):
        reader.compose(lacking, "completion")
    assert "two different templates are called mine@2" in other.problem


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 1: the line is not JSON"),
        (b"[]", "line 1: the line is not a JSON object but a list"),
        (b'{"task": "caption", "task": "vqa"}', 'the key "task" is given twice'),
        ({}, "needs a task or a template; tasks: caption, vqa"),
        ({"task": "capton"}, "no task 'capton'; known: caption"),
        ({"task": "run"}, "needs a template"),
        ({"template": "capton"}, "no template 'capton'"),
        ({"template": ""}, "no template ''"),
        ({"task": "caption", "images": "a.jpg"}, "images must be a list, not 'a.jpg'"),
        ({"task": "caption", "image": 3}, "image must be text, not 3"),
        ({"task": "vqa", "question": 3}, "question is not a text"),
        ({"task": "vqa", "question": "a", "fields": {"question": "b"}}, "question is given twice"),
        ({"task": "caption", "num_beams": 0}, "num_beams: 0 is not in the range 1 to 64"),
        ({"task": "caption", "num_beams": "2"}, "num_beams must be a whole number, not '2'"),
        ({"task": "classify", "image": "a"}, "classify needs labels"),
        ({"task": "classify", "image": "a", "labels": ["x"]}, "at least two labels"),
        ({"task": "classify", "image": "a", "labels": ["x", "x"]}, "'x' is given twice"),
        ({"task": "caption", "image": "-"}, "standard input has the items"),
        (
            {"task": "caption", "image": "a", "examples": [{"image": "b"}]},
            "example 1: answer is missing",
        ),
        ({"task": "caption", "image": "a", "examples": "none.yaml"}, "cannot read sub/none.yaml"),
        ({"task": "caption", "path_b64": ["é"]}, "path_b64 is not base64"),
        ({"id": True, "task": "caption"}, "id must be text or a whole number, not True"),
    ],
)
def test_a_line_that_cannot_be_asked_says_why_and_where(line: dict[str, Any] | bytes, reason: str) -> None:
    bad, good = read(line, {"task": "caption", "image": "a"})
    assert (bad.id, bad.problem.startswith("line 1: "), reason in bad.problem) == ("line 1", True, True), bad.problem
    assert good.problem == ""
    with pytest.raises(ItemError, match="line 1: "):
        ItemReader(Path(), {}, has_stdin=True).compose(bad, "chat")


def test_an_id_that_can_be_read_is_kept_and_one_that_repeats_is_not() -> None:
    bad, first, again = read({"id": "a", "task": "?"}, {"id": "b", "task": "caption"}, {"id": "b", "task": "caption"})
    assert (bad.id, bad.is_named) == ("a", True)
    assert (first.id, first.problem) == ("b", "")
    assert again.id == "line 3"
    assert "the id 'b' is on line 2 already" in again.problem


def test_names_in_any_bytes() -> None:
    (item,) = read({"task": "caption", "path_b64": [base64.b64encode(b"/x/caf\xe9.png").decode()]})
    assert item.images == ("/x/caf\udce9.png",)
