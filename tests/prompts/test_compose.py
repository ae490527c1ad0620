"""Prompt bytes are behaviour: every template in every family and style, bare and with two shots, is a golden file."""

from __future__ import annotations

import pytest

from idefics_cli.models.families import render_prompt
from idefics_cli.prompts.compose import compose
from idefics_cli.prompts.templates import load_template, template_names
from idefics_cli.values import STYLES, Example, Item
from tests.conftest import Golden

FIELDS = {
    "question": "What colour is the circle?",
    "labels": "['circle', 'square']",
    "prompt": "This is an image of",
    "message": "And who is that?",
}


@pytest.mark.parametrize("name", template_names())
def test_golden_prompts(name: str, golden: Golden) -> None:
    template = load_template(name)
    fields = tuple((field, FIELDS[field]) for field in template.fields)
    shots = [Example((f"{n}.png",), fields, f"answer {n}") for n in (1, 2)]
    sections = []
    for style in STYLES:
        for architecture in ("idefics", "idefics2", "idefics3", "smolvlm"):
            for count in (0, 2):
                request = compose(
                    template, style, Item("x", ("x.png",), fields), task="x", examples=shots[:count]
                )
                text = render_prompt(architecture, request.prompt)
                sections.append(f"=== {template.label}, {architecture}, {style}, {count} shots\n{text}⏎\n")
    golden(f"prompts/{name}.txt", "\n".join(sections))
