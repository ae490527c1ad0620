"""Thoughts come before an answer only where they were asked for, and are no part of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from idefics_cli.backends.local import LocalBackend
from idefics_cli.engine.detokenizer import AnswerText, TextStream
from idefics_cli.engine.listener import Listener
from idefics_cli.errors import ModelError
from idefics_cli.models.families.family import Family
from idefics_cli.models.loading import open_family
from idefics_cli.values import Answer, Choice, ModelSpec, Request
from tests.models.others import other
from tests.models.test_others import A, opened
from tests.models.tiny import user


def thinking(name: str) -> Family:
    return open_family(ModelSpec(str(other(name)), others=(("think", True),)))


@pytest.mark.parametrize(
    ("name", "begin", "end"), [("qwen3_5", "", "</think>"), ("gemma4", "<|channel>", "<channel|>")]
)
def test_thoughts_are_no_part_of_the_text(name: str, begin: str, end: str) -> None:
    family, prompt = thinking(name), (user(A, "What?"),)
    row = family.encode(prompt, [A])
    assert row.ids != opened(name)[0].encode(prompt, [A]).ids
    said: list[str] = []
    answer = AnswerText(family, row.ids, ("red",))
    stream = TextStream(answer, Listener(said.append), family.stop_ids)
    ids = family.tokenizer(f"{begin}A red dog?{end}\n\nA blue dog, not red", add_special_tokens=False)["input_ids"]
    for count in range(len(ids) + 1):
        stream.take(ids[:count])
        if count <= ids.index(family.tokenizer.convert_tokens_to_ids(end)):
            assert answer.read(ids[:count]) == ""
            assert not answer.is_stopped(ids[:count])
    assert answer.read(ids) == "A blue dog, not "
    assert "".join(said).strip() == "A blue dog, not"


@pytest.mark.parametrize("name", ["qwen3_5", "gemma4"])
def test_labels_are_ranked_without_thoughts(name: str) -> None:
    prompt, choices = (user(A, "Which?"),), [Choice("red", "red"), Choice("blue", "blue")]
    plain, able = opened(name)[0], thinking(name)
    assert [row.ids for row in able.encode_choices(prompt, [A], choices)] == [
        row.ids for row in plain.encode_choices(prompt, [A], choices)
    ]
    assert able.encode(prompt, [A], thinks=False).ids == plain.encode(prompt, [A]).ids
    assert plain.encode(prompt, [A], thinks=True).ids == able.encode(prompt, [A]).ids


@pytest.mark.parametrize("name", ["qwen3_5", "gemma4"])
def test_a_prompt_is_shown_as_it_is_run(name: str) -> None:
    backend = LocalBackend(ModelSpec(str(other(name)), others=(("think", True),)))
    asked = Request("0", "vqa", (user(A, "Which?"),))
    ranked = replace(asked, choices=(Choice("red", "red"), Choice("blue", "blue")))
    row = replace(asked, think=False)
    shown = {one: backend.preview(one, {A.source: A}).text for one in (asked, ranked, row)}
    assert shown[asked] != shown[ranked] == shown[row]


def test_a_row_thinks_by_itself() -> None:
    requests = [Request("0", "vqa", (user(A, "What?"),), think=one) for one in (True, None, True, False)]
    answers = LocalBackend(ModelSpec(str(other("qwen3_5")))).answer(requests, {A.source: A})
    told, plain, again, without = (one.usage.prompt_tokens if isinstance(one, Answer) else 0 for one in answers)
    assert told == again != plain == without
    (refused,) = LocalBackend(ModelSpec(str(other("llava")))).answer(requests[:1], {A.source: A})
    assert str(refused) == ('llava cannot think first: its chat template has no thinking; leave "think" out')


def test_thinking_is_refused_where_it_has_no_meaning() -> None:
    with pytest.raises(ModelError, match="--think has no effect on llava"):
        thinking("llava")
