"""An instruct model that was taught to write paragraphs: all of them come out of the program, up to its own end."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
import torch
import transformers

from idefics_cli.models.loading import open_family
from idefics_cli.values import Image, ModelSpec
from tests.models.tiny import EOU, assistant, checkpoint, user
from tests.program import Run

Program = Callable[..., Run]
ANSWER = "A dog.\n\nFun fact: it is night.\n- red"
TURNS = {"caption": "Describe the image briefly.", "vqa": "What is this?"}
STEPS = 40


def draw(path: Path) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (28, 28), "teal")
    image.save(path)
    return image


@functools.cache
def taught(kind: str) -> Path:
    """A tiny checkpoint that was taught, on the pixels and ids of each turn, to give this answer and end its turn."""
    folder = Path(tempfile.mkdtemp(prefix="taught-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(checkpoint(kind), folder, dirs_exist_ok=True)
    family = open_family(ModelSpec(str(folder)))
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    image = Image("shown.png", draw(folder / "shown.png"), "0" * 32)
    rows = []
    for turn in TURNS.values():
        prompt = (user(image, turn),)
        whole = family.encode((*prompt, assistant(ANSWER), user("And?")), [image])
        start = len(family.encode(prompt, [image]).ids)
        end = whole.ids.index(family.tokenizer.convert_tokens_to_ids(EOU), start) + 1
        inputs = family.collate([whole])
        labels = inputs["input_ids"].clone()
        labels[:, :start] = labels[:, end:] = -100
        rows.append(inputs | {"labels": labels})
    learner = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        learner.zero_grad()
        for row in rows:
            model(**row).loss.backward()
        learner.step()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["idefics2", "smolvlm"])
@pytest.mark.parametrize("task", TURNS)
def test_every_paragraph_arrives(run: Program, kind: str, task: str) -> None:
    folder = taught(kind)
    question = ("-q", TURNS["vqa"]) if task == "vqa" else ()
    words = (task, folder / "shown.png", *question, "--model", folder, "--style", "chat")
    row = json.loads(run(*words, "--format", "jsonl").stdout)
    assert (row["text"], row["finish_reason"]) == (ANSWER, "stop")
    assert run(*words).stdout == f"{ANSWER}\n"
    assert run(*words, "--stream").stdout == f"{ANSWER}\n"
    cut = json.loads(run(*words, "--format", "jsonl", "--stop", "\n").stdout)
    assert cut["text"] == ANSWER.partition("\n")[0], "the end of a line ends it only where that is asked for"
