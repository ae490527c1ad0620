"""Prompt bytes are behaviour: every template in every family and style, bare and with two shots, is a golden file."""

from __future__ import annotations

from typing import get_args

import pytest

from idefics_cli.models.families import render_prompt
from idefics_cli.models.families.layout import continue_with, spell
from idefics_cli.prompts.compose import compose
from idefics_cli.prompts.templates import load_template, template_names
from idefics_cli.values import Example, Item, Style
from tests.conftest import Golden

FIELDS = {
    "question": "What colour is the circle?",
    "labels": "['circle', 'square']",
    "prompt": "This is an image of",
    "message": "And who is that?",
    "scale": "a number from 1 to 5",
    "schema": '{"type":"object","properties":{"colour":{"type":"string"}},"required":["colour"]}',
}


@pytest.mark.parametrize("name", template_names())
def test_golden_prompts(name: str, golden: Golden) -> None:
    template = load_template(name)
    fields = tuple((field, FIELDS[field]) for field in template.fields)
    shots = [Example((f"{n}.png",), fields, f"answer {n}") for n in (1, 2)]
    sections = []
    for style in get_args(Style):
        for architecture in ("idefics", "idefics2", "idefics3", "smolvlm"):
            for count in (0, 2):
                request = compose(template, style, Item("x", ("x.png",), fields), task="x", examples=shots[:count])
                text = render_prompt(architecture, request.prompt)
                sections.append(f"=== {template.label}, {architecture}, {style}, {count} shots\n{text}⏎\n")
    golden(f"prompts/{name}.txt", "\n".join(sections))


@pytest.mark.parametrize("space", ["", " "], ids=["", "space"])
@pytest.mark.parametrize("style", get_args(Style))
@pytest.mark.parametrize("name", template_names())
def test_what_stands_before_an_answer_in_a_shot_ends_the_query(name: str, style: Style, space: str) -> None:
    """A shot is the query and, as it would be ranked, its answer: for texts that end in a space too."""
    template = load_template(name)
    fields = tuple((field, FIELDS[field] + space) for field in template.fields)
    item = Item("x", ("x.png",), fields)
    shot = [Example(("x.png",), fields, "answer 1")]
    for architecture in ("idefics", "idefics2", "idefics3", "smolvlm"):
        query = compose(template, style, item, task="x", choices=("answer 1",))
        asked = render_prompt(architecture, query.prompt)
        shown = render_prompt(architecture, compose(template, style, item, task="x", examples=shot).prompt)
        answer = spell(continue_with(query.prompt, query.choices[0].continuation), ())
        assert shown.startswith(asked + answer)
