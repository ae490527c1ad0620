"""Ranking by likelihood, against the naive loop of one forward per label and one addition per token."""

from __future__ import annotations

import math

import pytest
import torch

from idefics_cli.engine.score import find_shared_length, rank, score_rows
from idefics_cli.values import Choice, Image, Prompt
from tests.engine.test_generate import opened
from tests.models.tiny import KINDS, document, picture, user

A = picture(1)
LABELS = ("red", "a red dog", "dog", "blue", "red", "city landscape", "circles")


def naive_score(kind: str, prompt: Prompt, images: list[Image], choice: Choice, start: int) -> float:
    family, model = opened(kind)
    encoded = family.encode_choice(prompt, images, choice)
    with torch.inference_mode():
        logits = model(**family.collate([encoded]), use_cache=False).logits[0].float()
    logprobs = torch.log_softmax(logits, dim=-1)
    return math.fsum(
        float(logprobs[place - 1, encoded.ids[place]]) for place in range(start, len(encoded.ids))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize(
    ("prompt", "ending"),
    [(document(A, "Category:"), "\n"), ((user(A, "Which?"),), "")],
    ids=["document", "chat"],
)
def test_scores_are_those_of_the_naive_loop(kind: str, batch_size: int, prompt: Prompt, ending: str) -> None:
    family, model = opened(kind)
    choices = [Choice(label, f" {label}{ending}") for label in LABELS]
    rows = [family.encode_choice(prompt, [A], choice) for choice in choices]
    start = find_shared_length([family.encode(prompt, [A]).ids, *(row.ids for row in rows)])
    scores = score_rows(model, family, rows, start, batch_size=batch_size)
    expected = [naive_score(kind, prompt, [A], choice, start) for choice in choices]
    assert scores == pytest.approx(expected, abs=1e-4)
    assert scores[0] == scores[4], "equal labels, equal scores"


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_begins_before_a_merge_across_the_seam(kind: str) -> None:
    """A document that ends in a word and a label that goes on with it: the last ids of the prompt may differ."""
    family, model = opened(kind)
    prompt = document(A, "circ")
    rows = [family.encode_choice(prompt, [A], Choice(label, label)) for label in ("le", " le")]
    prompt_ids = family.encode(prompt, [A]).ids
    start = find_shared_length([prompt_ids, *(row.ids for row in rows)])
    assert start < len(prompt_ids)
    assert all(score < 0 for score in score_rows(model, family, rows, start, batch_size=2))


def test_ties_keep_the_order_of_the_labels() -> None:
    choices = [Choice(label, label) for label in "abcd"]
    scores = rank(choices, [-2.0, -1.0, -1.0, -9.0])
    assert [score.label for score in scores] == ["b", "c", "a", "d"]
    assert math.fsum(score.probability for score in scores) == pytest.approx(1.0)
    assert scores[0].probability == scores[1].probability


def test_very_unlikely_labels_still_have_probabilities() -> None:
    scores = rank([Choice("a", "a"), Choice("b", "b")], [-4000.0, -4001.0])
    assert scores[0].probability == pytest.approx(1 / (1 + math.exp(-1)))
