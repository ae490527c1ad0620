"""The task guide as a contract: each of its rows is one command that gives the model the same prompt, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import PIL.Image
import pytest

from tests.program import Run

IMAGE = "<fake_token_around_image><image><fake_token_around_image>"
EOU = "<end_of_utterance>"
FUN_FACT = "Fun fact: the Eiffel Tower is the same height as an 81-storey building."
IDEFIX = "This picture depicts Idefix, the dog of Obelix in Asterix and Obelix. Idefix is running on the ground."
CATS = "In this image we can see two cats on the nets."
PLANTS = "In this image we can see flowers, plants and insect."

SHOT = [{"image": "tower.jpg", "answer": f"An image of the Eiffel Tower at night. {FUN_FACT}"}]
INSTRUCT = [{"image": "dog.jpg", "turn": ["What is in this image?", "image"], "answer": IDEFIX}]
CHAT = [{"image": "cats.jpg", "fields": {"message": "What do we see in this image?"}, "answer": CATS}]
STREAMED = [*CHAT, {"image": "bee.jpg", "fields": {"message": "And how about this image?"}, "answer": PLANTS}]

ROWS: dict[str, tuple[list[str], Sequence[Mapping[str, object]], str]] = {
    "1 captioning": (["caption", "dog.jpg", "--max-new-tokens", "10"], [], f"<s>{IMAGE}"),
    "2 prompted captioning": (
        ["caption", "tower.jpg", "--prompt", "This is an image of "],
        [],
        f"<s>{IMAGE}This is an image of",
    ),
    "3 few-shot": (
        ["run", "describe", "statue.jpg", "--max-new-tokens", "30"],
        SHOT,
        f"<s>User:{IMAGE}Describe this image.\nAssistant: An image of the Eiffel Tower at night. {FUN_FACT}\n"
        f"User:{IMAGE}Describe this image.\nAssistant:",
    ),
    "4 visual question answering": (
        ["vqa", "park.jpg", "--question", "Where are these people and what's the weather like?"],
        [],
        "<s>Instruction: Provide an answer to the question. Use the image to answer.\n"
        f"{IMAGE}Question: Where are these people and what's the weather like? Answer:",
    ),
    "5 classification": (
        [
            "classify",
            "peppers.jpg",
            "--labels",
            "animals,vegetables,city landscape,cars,office",
            "--generate",
        ],
        [],
        "<s>Instruction: Classify the following image into a single category from the following list: "
        f"['animals', 'vegetables', 'city landscape', 'cars', 'office'].\n{IMAGE}Category:",
    ),
    "6 rank classification": (
        ["classify", "peppers.jpg", "--labels", "animals,vegetables,city landscape,cars,office"],
        [],
        "<s>Instruction: Classify the following image into a single category from the following list: "
        f"['animals', 'vegetables', 'city landscape', 'cars', 'office'].\n{IMAGE}Category:",
    ),
    "7 image-guided text": (
        ["write", "door.jpg"],
        [],
        f"<s>Instruction: Use the image to write a story. \n{IMAGE}Story: \n",
    ),
    "9 instruct": (
        ["run", "dialogue", "obelix.jpg", "--set", "message=And who is that?", "--style", "chat"],
        INSTRUCT,
        f"<s>User: What is in this image?{IMAGE}{EOU}\nAssistant: {IDEFIX}{EOU}\n"
        f"User:{IMAGE}And who is that?{EOU}\nAssistant:",
    ),
    "10 chat template": (
        ["run", "dialogue", "bee.jpg", "--set", "message=And how about this image?", "--model", "idefics2"],
        CHAT,
        f"<s>User:<image>What do we see in this image?{EOU}\nAssistant: {CATS}{EOU}\n"
        f"User:<image>And how about this image?{EOU}\nAssistant:",
    ),
    "11 streaming": (
        ["run", "dialogue", "--set", "message=And what is in this image?", "--model", "idefics2", "--stream"],
        STREAMED,
        f"<s>User:<image>What do we see in this image?{EOU}\nAssistant: {CATS}{EOU}\n"
        f"User:<image>And how about this image?{EOU}\nAssistant: {PLANTS}{EOU}\n"
        f"User: And what is in this image?{EOU}\nAssistant:",
    ),
}


def write_examples(folder: Path, examples: Sequence[Mapping[str, object]]) -> list[str]:
    if not examples:
        return []
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return ["--examples", str(path)]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's pictures by name; their contents do not matter to a prompt."""
    for name in ("dog", "tower", "statue", "park", "peppers", "door", "obelix", "bee", "cats", "a", "b", "c"):
        PIL.Image.new("RGB", (32, 24), "white").save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("row", ROWS)
def test_each_row_gives_the_guides_prompt(row: str, tmp_path: Path, run: Callable[..., Run]) -> None:
    arguments, examples, prompt = ROWS[row]
    model = [] if "--model" in arguments else ["--model", "idefics-9b"]
    result = run(*arguments, *model, *write_examples(tmp_path, examples), "--dry-run")
    assert (result.code, result.stdout) == (0, f"{prompt}\n"), result.stderr


def test_row_8_batch_mode_gives_one_prompt_an_image(run: Callable[..., Run]) -> None:
    result = run(
        "caption",
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "--prompt",
        "This is an image of ",
        "--model",
        "idefics-9b",
        "--dry-run",
    )
    assert result.stdout.count(f"<s>{IMAGE}This is an image of\n") == 3
