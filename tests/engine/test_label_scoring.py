"""Ranking by likelihood, against the naive way of one full row per label and one addition per token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from idefics_cli.engine import label_scoring
from idefics_cli.engine.engine import Engine
from idefics_cli.engine.label_scoring import Ranking, split_labels
from idefics_cli.engine.oom_retry import Done
from idefics_cli.ranking import normalize, rank
from idefics_cli.values import Choice, Image, Prompt
from tests.engine.oracle import opened, plain_scores, run_all
from tests.models.tiny import KINDS, assistant, document, picture, user

A, B, C = picture(1), picture(2, (30, 60)), picture(3, (80, 20))
LABELS = ("red", "a red dog", "dog", "blue", "red", "city landscape", "circles", "a red circle at night")
SHOTS = ("Instruction: Use the image to answer.\n", B, "Category: dog\n", C, "Category: blue\n")
PROMPTS: tuple[tuple[Prompt, tuple[Image, ...], str], ...] = (
    (document(A, "Category:"), (A,), "\n"),
    (document(*SHOTS, A, "Category:"), (B, C, A), "\n"),
    (document(*SHOTS, picture(4), "Which of the two is it? Category:"), (B, C, picture(4)), "\n"),
    (document("Category:"), (), "\n"),
    (document(A), (A,), "\n"),
    ((user(B, "Which?"), assistant("red"), user("And ", A, "which?")), (B, A), ""),
    ((user("Which?"),), (), ""),
)


def choices_of(ending: str) -> list[Choice]:
    return [Choice(label, f" {label}{ending}") for label in LABELS]


def ranking_of(kind: str, prompt: Prompt, images: tuple[Image, ...], ending: str) -> Ranking:
    family, _ = opened(kind)
    rows = family.encode_choices(prompt, images, choices_of(ending))
    return split_labels(family.encode(prompt, images), rows)


def scores_of(engine: Engine, rankings: list[Ranking], rows: int = 8) -> list[list[float]]:
    return [list(done.outcome.scores) for done in run_all(engine, rankings, rows=rows) if isinstance(done, Done)]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_full_rows(kind: str) -> None:
    """Together, alone, in any order, after kept prefixes and in the shortest rows."""
    family, model = opened(kind)
    rankings = [ranking_of(kind, *case) for case in PROMPTS]
    expected = [
        plain_scores(kind, prompt, images, choices_of(ending), len(ranking.encoded.ids))
        for (prompt, images, ending), ranking in zip(PROMPTS, rankings, strict=True)
    ]
    engine = Engine(model, family)
    for found in (
        scores_of(engine, rankings),
        scores_of(engine, rankings[::-1])[::-1],
        [scores_of(engine, [ranking])[0] for ranking in rankings],
        [list(engine.run([ranking], row_tokens=3)[0].scores) for ranking in rankings],
    ):
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
            assert one[0] == one[4], "equal labels, equal scores"
    assert len({max(range(8), key=scores.__getitem__) for scores in expected}) > 1, "a test of sameness alone"


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_prompt_runs_before_its_labels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_scoring, "LONG_TOKENS", 1)
    family, model = opened(kind)
    widths: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        widths.append(inputs["input_ids"].shape[1])

    prompt, images, ending = PROMPTS[1]
    ranking = ranking_of(kind, prompt, images, ending)
    length = len(ranking.encoded.ids)
    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        (scores,) = scores_of(Engine(model, family), [ranking])
    finally:
        hook.remove()
    assert (len(widths), widths[0]) == (2, length)
    assert scores == pytest.approx(plain_scores(kind, prompt, images, choices_of(ending), length), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_begins_before_a_merge_across_the_seam(kind: str) -> None:
    """A document that ends in a word and a label that goes on with it: the last ids of the prompt may differ."""
    family, model = opened(kind)
    prompt = document(A, "circ")
    choices = [Choice(label, label) for label in ("le", " le")]
    encoded = family.encode(prompt, [A])
    ranking = split_labels(encoded, family.encode_choices(prompt, [A], choices))
    start = len(ranking.encoded.ids)
    assert start < len(encoded.ids)
    (scores,) = scores_of(Engine(model, family), [ranking])
    assert scores == pytest.approx(plain_scores(kind, prompt, [A], choices, start), abs=1e-4)


@pytest.mark.parametrize("kind", ["idefics-resampler", "idefics2"])
def test_labels_are_one_row_and_the_prompt_is_run_once(kind: str) -> None:
    family, model = opened(kind)
    engine = Engine(model, family)
    widths: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        widths.append(inputs["input_ids"].numel())

    ranking = ranking_of(kind, *PROMPTS[1])
    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        engine.run([ranking])
        tokens = {label[:size] for label in ranking.labels for size in range(1, len(label))}
        assert widths == [len(ranking.encoded.ids) + len(tokens)]
    finally:
        hook.remove()


def test_a_sliding_window_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistral sees its last tokens only: neither padding nor other labels count among them."""
    family, model = opened("idefics2")
    for config in (family.text_config, model.model.text_model.config):
        monkeypatch.setattr(config, "sliding_window", 24)
    rankings = [ranking_of("idefics2", *case) for case in PROMPTS[:4]]
    expected = [
        plain_scores("idefics2", prompt, images, choices_of(ending), len(ranking.encoded.ids))
        for (prompt, images, ending), ranking in zip(PROMPTS, rankings, strict=False)
    ]
    found = scores_of(Engine(model, family), rankings)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_labels_are_tokenised_once_for_all_images() -> None:
    family, _ = opened("idefics")
    first = family.encode_choices(document(A, "Category:"), [A], choices_of("\n"))
    second = family.encode_choices(document(B, "Category:"), [B], choices_of("\n"))
    assert all(one.ids is other.ids for one, other in zip(first, second, strict=True))
    assert first[0].spans != second[0].spans


def test_other_attention_kernels_are_put_back() -> None:
    from idefics_cli.engine.label_scoring import _dense_attention

    _, model = opened("idefics3")
    with _dense_attention(model):
        assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("flex_attention")
    try:
        with _dense_attention(model):
            assert model.model.text_model.config._attn_implementation == "sdpa"
        assert model.model.text_model.config._attn_implementation == "flex_attention"
    finally:
        model.set_attn_implementation("sdpa")


def test_ties_keep_the_order_of_the_labels() -> None:
    choices = [Choice(label, label) for label in "abcd"]
    scores = rank(choices, [-2.0, -1.0, -1.0, -9.0])
    assert [score.label for score in scores] == ["b", "c", "a", "d"]
    assert math.fsum(score.probability for score in scores) == pytest.approx(1.0)
    assert scores[0].probability == scores[1].probability


def test_very_unlikely_labels_still_have_probabilities() -> None:
    scores = rank([Choice("a", "a"), Choice("b", "b")], [-4000.0, -4001.0])
    assert scores[0].probability == pytest.approx(1 / (1 + math.exp(-1)))


def test_normalizations() -> None:
    labels = ((1, 2), (1, 2, 3, 4))
    assert normalize([-2.0, -3.0], "none", labels) == [-2.0, -3.0]
    assert normalize([-2.0, -3.0], "tokens", labels) == [-1.0, -0.75]
    assert normalize([-2.0, -3.0], "pmi", labels, (-1.0, -4.0)) == [-1.0, 1.0]


def test_scores_are_added_up_in_full_precision() -> None:
    """In bfloat16 the sum of many small numbers would be of three digits."""
    from idefics_cli.engine.label_scoring import _read_edges
    from idefics_cli.engine.label_trie import pack

    torch.manual_seed(0)
    (row,) = pack(((1, 2), (1, 3)), 10)
    last, logits = torch.randn(1, 1, 50).bfloat16(), torch.randn(1, 1, 50).bfloat16()
    found = _read_edges(last, logits, row)[0]
    exact = [
        float(torch.log_softmax((last if place < 0 else logits)[0, 0].double(), -1)[token])
        for place, token in row.edges
    ]
    assert found == pytest.approx(exact, abs=1e-5)
