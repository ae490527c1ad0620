"""Templates: strict data, one substitution pass, and errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefics_cli.errors import UsageError
from idefics_cli.prompts.compose import compose, word
from idefics_cli.prompts.examples import load_examples
from idefics_cli.prompts.templates import (
    Template,
    load_template,
    read_template,
    substitute,
    template_names,
)
from idefics_cli.values import Decoding, Example, ImagePart, Item, Message, Part, TextPart

VQA = load_template("vqa")


def item(question: str = "Why?") -> Item:
    return Item("a.png", ("a.png",), (("question", question),))


def test_a_document_interleaves_shots_in_order() -> None:
    shots = [Example(("s.png",), (("question", "Who?"),), "Me")]
    (message,) = compose(VQA, "completion", item(), task="vqa", examples=shots).prompt
    assert message.role == "document"
    assert message.parts == (
        TextPart("Instruction: Provide an answer to the question. Use the image to answer.\n"),
        ImagePart("s.png"),
        TextPart("Question: Who? Answer:"),
        TextPart(" Me\n"),
        ImagePart("a.png"),
        TextPart("Question: Why? Answer:"),
    )


def test_a_chat_makes_turns_of_the_shots() -> None:
    shots = [Example(("s.png",), (("question", "Who?"),), "Me")]
    prompt = compose(VQA, "chat", item(), task="vqa", examples=shots).prompt
    assert prompt == (
        Message("user", (ImagePart("s.png"), TextPart("Who?"))),
        Message("assistant", (TextPart("Me"),)),
        Message("user", (ImagePart("a.png"), TextPart("Why?"))),
    )


def test_an_opening_begins_the_reply_and_is_kept_for_the_row() -> None:
    template = load_template("caption-prompted")
    asked = Item("a.png", ("a.png",), (("prompt", "This is "),))
    request = compose(template, "chat", asked, task="caption")
    assert request.prompt[-1] == Message("assistant", (TextPart("This is "),))
    assert request.opening == "This is"


def test_all_images_of_an_item_stand_where_the_turn_says() -> None:
    together = Item("both", ("a.png", "b.png"), (("question", "Which?"),))
    (message,) = compose(VQA, "completion", together, task="vqa").prompt
    assert message.parts[1:3] == (ImagePart("a.png"), ImagePart("b.png"))


def test_a_choice_carries_its_terminator() -> None:
    """The authors' full stop where the template has one, and else the end of the line."""
    labels = Item("a.png", ("a.png",), (("labels", "['a', 'b']"),))
    request = compose(load_template("classify"), "completion", labels, task="classify", choices=("a", "b"))
    assert [choice.continuation for choice in request.choices] == [" a\n", " b\n"]
    photo = Item("a.png", ("a.png",))
    request = compose(load_template("classify-photo"), "completion", photo, task="classify", choices=("a",))
    assert request.choices[0].continuation == " a."


def write_template(folder: Path, *, turn: str, answer: str = " $answer\\n") -> Template:
    path = folder / "own.yaml"
    head = "name: own\nversion: 1\ndescription: d\nimages: optional\n"
    path.write_text(f'{head}completion:\n  turn: {turn}\n  answer: "{answer}"\n')
    return read_template(path)


def word_parts(template: Template, *images: str, shots: Sequence[Example] = ()) -> tuple[Part, ...]:
    (message,) = compose(template, "completion", Item("x", images), task="x", examples=shots).prompt
    return message.parts


def test_a_turn_names_images_one_by_one(tmp_path: Path) -> None:
    template = write_template(tmp_path, turn="['Image one:', image, 'and', image, 'Which is older?']")
    assert word_parts(template, "a.png", "b.png") == (
        TextPart("Image one:"),
        ImagePart("a.png"),
        TextPart("and"),
        ImagePart("b.png"),
        TextPart("Which is older?"),
    )
    for images in (("a.png",), ("a.png", "b.png", "c.png")):
        with pytest.raises(UsageError, match=f"2 places for images and the item has {len(images)}"):
            word_parts(template, *images)


def test_images_stand_for_all_that_are_left(tmp_path: Path) -> None:
    template = write_template(tmp_path, turn="[image, 'is one of', images, '.']")
    first, *_, last = word_parts(template, "a.png", "b.png", "c.png")
    assert first == ImagePart("a.png")
    assert last == TextPart(".")
    assert len(word_parts(template, "a.png", "b.png", "c.png")) == 5
    assert word_parts(template, "a.png")[1:] == (TextPart("is one of"), TextPart(" ."))


def test_a_turn_without_an_image_keeps_its_words_apart() -> None:
    asked = Item("x", (), (("message", "Is it running?"),))
    (message,) = compose(load_template("dialogue"), "completion", asked, task="x").prompt
    assert message.parts == (TextPart("User:"), TextPart(" Is it running?\nAssistant:"))


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (("What is it?", "image"), (TextPart("User: "), TextPart("What is it?"), ImagePart("s.png"))),
        (("image", "What for $5?"), (TextPart("User:"), ImagePart("s.png"), TextPart("What for $5?"))),
    ],
)
def test_an_examples_own_turn_keeps_the_roles(turn: tuple[str, ...], words: tuple[Part, ...]) -> None:
    shots = [Example(("s.png",), (), "A dog.", turn)]
    asked = Item("x", ("a.png",), (("message", "And this?"),))
    dialogue = load_template("dialogue")
    (message,) = compose(dialogue, "completion", asked, task="x", examples=shots).prompt
    roles = (TextPart("\nAssistant:"), TextPart(" A dog.\n"))
    assert message.parts[: len(words) + 2] == (*words, *roles)
    first, *_ = compose(dialogue, "chat", asked, task="x", examples=shots).prompt
    assert first == Message("user", words[1:])


def test_stops_belong_to_a_rendering() -> None:
    """An instruct model ends by itself: a line break is none of its ends."""
    for name in template_names():
        template = load_template(name)
        assert template.decoding_in("chat").stop == ()
        assert template.decoding_in("completion").stop
    own = replace(item(), decoding=Decoding(max_new_tokens=7, stop=("x",)), has_own_stop=True)
    assert word(VQA, "completion", own).decoding == own.decoding
    plain = word(VQA, "completion", replace(own, decoding=Decoding(max_new_tokens=7), has_own_stop=False))
    assert plain.decoding == Decoding(max_new_tokens=7, stop=VQA.decoding_in("completion").stop)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_what_a_user_typed_is_never_expanded(text: str) -> None:
    assert substitute("<$a|$b>", {"a": text, "b": "$a"}) == f"<{text}|$a>"


def test_missing_and_unknown_fields_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("name: two\nversion: 1\ndescription: d\nfields: [one, other]\nchat: {turn: [image, '$one $other']}")
    template = read_template(path)
    with pytest.raises(UsageError, match="needs a value for one, other"):
        compose(template, "chat", Item("a", ("a.png",)), task="x")
    with pytest.raises(UsageError, match="has no field size"):
        compose(template, "chat", Item("a", ("a.png",), (("size", "2"),)), task="x")


def test_a_request_never_goes_without_its_image() -> None:
    with pytest.raises(UsageError, match="needs an image"):
        compose(load_template("caption"), "completion", Item("x"), task="caption")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "not valid YAML"),
        ("just text", "not a template"),
        ("name: x\nversion: 1\ndescription: d\nchat: {turn: [image]}\nextra: 1", "extra"),
        (
            "name: x\nversion: 1\ndescription: d\nchat: {turn: [image, '$nothing']}",
            r"unknown field \$nothing",
        ),
        ("name: x\nversion: 1\ndescription: d\nchat: {turn: [images, images]}", "at most once"),
        (
            "name: x\nversion: 1\ndescription: d\nchat: {turn: [image], decoding: {seed: 1}}",
            "`seed` belongs to the template",
        ),
        ("name: x\nversion: 1\ndescription: d\nchat: {turn: [image], answer: none}", "exactly once"),
        ("name: x\nversion: 1\ndescription: d\nchat: {turn: ['5 $']}", "lone"),
        ("name: x\nversion: 1\ndescription: d", "give `completion`, `chat` or both"),
        ("name: X Y\nversion: 1\ndescription: d\nchat: {turn: [image]}", "lower-case"),
        ("name: x\nversion: one\ndescription: d\nchat: {turn: [image]}", "version"),
        ("!!python/object/apply:os.system ['echo hi']", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        (
            "name: x\nversion: 1\ndescription: d\nchat: {turn: [image]}\ndecoding: {max_new_tokens: 0}",
            "max_new_tokens",
        ),
    ],
)
def test_a_bad_template_says_why_in_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        read_template(path)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_examples_come_from_yaml_and_jsonl_with_paths_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "shots.yaml").write_text("- {image: a.png, fields: {question: Who?}, answer: Me}\n")
    (tmp_path / "shots.jsonl").write_text(
        '{"image": "a.png", "fields": {"question": "Who?"}, "answer": "Me"}\n\n'
        '{"image": "https://x.test/b.png", "answer": "You"}\n'
    )
    expected = Example((str(tmp_path / "a.png"),), (("question", "Who?"),), "Me")
    assert load_examples(tmp_path / "shots.yaml") == [expected]
    assert load_examples(tmp_path / "shots.jsonl") == [
        expected,
        Example(("https://x.test/b.png",), (), "You"),
    ]


@pytest.mark.parametrize(
    "entry", ['{"image": "a.png"}', '{"answer": 1}', '{"answer": "x", "imgae": "a.png"}', "{", "[]"]
)
def test_a_bad_example_names_its_line(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "shots.jsonl"
    path.write_text('{"image": "a.png", "answer": "fine"}\n' + entry + "\n")
    with pytest.raises(UsageError, match="line 2"):
        load_examples(path)
