"""What a decoding option may be is said once: command line, items, templates and API refuse the same values alike."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from idefics_cli.engine.engine import Engine
from idefics_cli.engine.generate import Continuation
from idefics_cli.prompts.decoding_ranges import RANGES
from idefics_cli.prompts.items import ItemReader
from idefics_cli.prompts.templates import DecodingDefaults
from idefics_cli.serve.openai_schema import ChatCall
from idefics_cli.values import Decoding
from tests.engine.oracle import opened
from tests.models.tiny import document, picture
from tests.program import run_program
from tests.scripted import ScriptedBackend

REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("temperature", 1e-320, "1e-320 is not in the range 0, or 0.001 to 100"),
    ("temperature", 1e308, "1e+308 is not in the range"),
    ("temperature", -1.0, "-1.0 is not in the range"),
    ("num_beams", 2**63, "9223372036854775808 is not in the range 1 to 64"),
    ("num_beams", 20_000, "20000 is not in the range 1 to 64"),
    ("num_beams", 10**1000, "it is not in the range 1 to 64"),
    ("seed", 2**64, "18446744073709551616 is not in the range 0 to 9,223,372,036,854,775,807"),
    ("seed", -1, "-1 is not in the range"),
    ("repetition_penalty", 0, "0.0 is not in the range 0.01 to 100"),
    ("repetition_penalty", 1e-308, "1e-308 is not in the range"),
    ("top_k", 99_999_999_999, "99999999999 is not in the range 0 to 1,000,000"),
    ("top_p", 0.0, "0.0 is not in the range 0.0001 to 1"),
    ("top_p", 1.5, "1.5 is not in the range"),
    ("length_penalty", 1e300, "1e+300 is not in the range -100 to 100"),
    ("no_repeat_ngram_size", 2**70, "is not in the range 0 to 1,000"),
    ("max_new_tokens", 0, "0 is not in the range 1 to 1,000,000"),
    ("stop", [""], "an empty text would end every answer before it begins"),
    ("stop", ["x"] * 17, "17 texts are more than 16"),
    ("stop", ["x" * 1001], "a text of 1,001 characters is longer than 1,000"),
)
CHAT = ("temperature", "top_p", "seed", "stop", "max_new_tokens")


def test_every_number_has_its_range() -> None:
    assert {field.name for field in fields(Decoding)} == {*RANGES, "stop"}
    for name, allowed in RANGES.items():
        assert getattr(Decoding(), name) in allowed


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_it_is_refused_alike_everywhere(name: str, value: Any, reason: str, red_circle: Path) -> None:
    flag = f"--{name.replace('_', '-')}"
    given = [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]
    run = run_program("caption", red_circle, *given, "--model", "shapes", backend=ScriptedBackend())
    assert run.code == 2
    assert run.stderr.startswith(f"idefics: error: {flag}: ")
    assert reason in run.stderr
    assert len(run.stderr.splitlines()) == 1
    line = {"task": "caption", "image": str(red_circle), name: value}
    (item,) = ItemReader(Path(), {}).read([(1, json.dumps(line).encode())])
    assert item.problem.startswith(f"line 1: {name}: ")
    assert reason in item.problem
    with pytest.raises(ValidationError, match="Value error") as refused:
        DecodingDefaults.model_validate({name: value})
    assert reason in str(refused.value)
    if name in CHAT:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        own = "max_tokens" if name == "max_new_tokens" else name
        with pytest.raises(ValidationError, match="Value error") as refused:
            ChatCall.model_validate(body | {own: value})
        assert reason in str(refused.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(number: float, red_circle: Path) -> None:
    run = run_program("caption", red_circle, "--temperature", str(number), backend=ScriptedBackend())
    assert run.code == 2
    assert f"{number} is not in the range" in run.stderr


@pytest.mark.parametrize("name", RANGES)
def test_the_model_computes_at_both_ends(name: str) -> None:
    family, model = opened("idefics2")
    image = picture(1)
    row = family.encode(document(image, "Describe"), [image])
    ends = {RANGES[name].least, RANGES[name].most} if name != "max_new_tokens" else {1}
    drawn = {"temperature": 1.0} if name in ("top_p", "top_k", "seed") else {}
    for end in ends:
        kind = type(getattr(Decoding(), name))
        beams = {"num_beams": 2} if name == "length_penalty" else {}
        decoding = Decoding(**{"max_new_tokens": 3, **drawn, **beams, name: kind(end)})
        with torch.inference_mode():
            (outcome,) = Engine(model, family).run([Continuation(row, decoding)])
        assert outcome.is_finite
        assert outcome.generation is not None
