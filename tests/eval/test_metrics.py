"""Each metric against another way to compute it, written here or by hand, on hundreds of random cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import text

from idefics_cli.errors import UsageError
from idefics_cli.eval.answers import count_edits, measure_exact, measure_fields, score_anls, score_vqa
from idefics_cli.eval.captions import measure_bleu, measure_cider, measure_rouge, measure_subsequence
from idefics_cli.eval.cases import Case
from idefics_cli.eval.intervals import Measured
from idefics_cli.eval.labels import (
    measure_accuracy,
    measure_auc,
    measure_average_precision,
    measure_calibration,
    measure_f1,
)
from idefics_cli.eval.wording import normalise_vqa, split_words

ROUNDS = 200
WORDS = ("a", "red", "circle", "on", "blue", "dog", "cat", "sits")


def make_case(
    said: str = "", answers: Sequence[str] = (), *, label: str | None = None, sure: float = math.nan,
    scores: Sequence[tuple[str, float]] = (), data: Any = None, truth: Any = None,
) -> Case:  # fmt: skip
    ranked = tuple((name, math.log(chance or 1e-9), chance) for name, chance in scores)
    return Case("x", said, label, ranked, sure, data, tuple(answers), truth, "", b"")


def value(measured: Measured, count: int) -> float:
    return measured.evaluate(np.ones(count))


def make_sentence(random: Random, most: int = 8) -> str:
    return " ".join(random.choices(WORDS, k=random.randint(1, most)))


def make_captions(random: Random) -> list[Case]:
    cases = []
    for _ in range(random.randint(2, 6)):
        answers = [make_sentence(random) for _ in range(random.randint(1, 4))]
        near = " ".join([*answers[0].split()[:-1], random.choice(WORDS)])
        cases.append(make_case(random.choice([near, make_sentence(random)]), answers))
    return cases


def list_ngrams(text: str, size: int) -> list[str]:
    words = text.split()
    return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]


def score_plain_cider(cases: Sequence[Case]) -> list[float]:
    """The formula of the paper, word for word; the lengths are numbers of pairs, as in coco-caption."""

    def weigh(text: str, size: int) -> dict[str, float]:
        grams = list_ngrams(text, size)
        return {
            gram: grams.count(gram)
            * math.log(
                len(cases)
                / max(
                    1,
                    sum(any(gram in list_ngrams(answer, size) for answer in case.answers) for case in cases),
                )
            )
            for gram in set(grams)
        }

    scores = []
    for case in cases:
        total = 0.0
        for answer in case.answers:
            gap = len(list_ngrams(case.said, 2)) - len(list_ngrams(answer, 2))
            for size in range(1, 5):
                own, right = weigh(case.said, size), weigh(answer, size)
                norms = math.hypot(*own.values()) * math.hypot(*right.values())
                dot = sum(min(own[gram], right[gram]) * right[gram] for gram in own.keys() & right.keys())
                total += math.exp(-(gap**2) / 72) * dot / norms if norms else 0.0
        scores.append(10 * total / 4 / len(case.answers))
    return scores


def score_plain_bleu(cases: Sequence[Case]) -> float:
    logs, said_length, right_length = 0.0, 0, 0
    for size in range(1, 5):
        matched = every = 0
        for case in cases:
            grams = list_ngrams(case.said, size)
            every += len(grams)
            matched += sum(
                min(grams.count(gram), max(list_ngrams(answer, size).count(gram) for answer in case.answers))
                for gram in set(grams)
            )
        if not matched:
            return 0.0
        logs += math.log(matched / every) / 4
    for case in cases:
        length = len(case.said.split())
        said_length += length
        right_length += sorted((abs(len(answer.split()) - length), len(answer.split())) for answer in case.answers)[0][
            1
        ]
    return math.exp(logs) * (1 if said_length >= right_length else math.exp(1 - right_length / said_length))


def find_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    @cache
    def find(i: int, j: int) -> int:
        if i == len(one) or j == len(other):
            return 0
        if one[i] == other[j]:
            return 1 + find(i + 1, j + 1)
        return max(find(i + 1, j), find(i, j + 1))

    return find(0, 0)


def find_edits(one: str, other: str) -> int:
    @cache
    def find(i: int, j: int) -> int:
        if i == len(one) or j == len(other):
            return len(one) - i + len(other) - j
        if one[i] == other[j]:
            return find(i + 1, j + 1)
        return 1 + min(find(i + 1, j), find(i, j + 1), find(i + 1, j + 1))

    return find(0, 0)


def test_captions_score_as_the_formulas_say() -> None:
    random = Random("captions")
    for _ in range(ROUNDS // 4):  # of four captions on average
        cases = make_captions(random)
        cider = measure_cider(cases)
        assert cider.values is not None
        assert np.allclose(cider.values, score_plain_cider(cases))
        assert value(cider, len(cases)) == pytest.approx(sum(score_plain_cider(cases)) / len(cases))
        assert value(measure_bleu(cases), len(cases)) == pytest.approx(score_plain_bleu(cases))
        rouge = []
        for case in cases:
            said = case.said.split()
            common = [(find_subsequence(said, one.split()), len(one.split())) for one in case.answers]
            precision = max(one for one, _ in common) / len(said)
            recall = max(one / length for one, length in common)
            rouge.append(2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0.0)
        assert np.allclose(measure_rouge(cases).values, rouge)  # type: ignore[arg-type]


def test_subsequences_and_edits_are_those_found_step_by_step() -> None:
    random = Random("distances")
    for _ in range(ROUNDS):
        one, other = ("".join(random.choices("abc", k=random.randint(0, 12))) for _ in range(2))
        assert measure_subsequence(list(one), list(other)) == find_subsequence(one, other)
        assert count_edits(one, other) == find_edits(one, other)


@given(text(alphabet="abZ09 .,'-é", max_size=24))
def test_plain_captions_are_split_as_any_other(caption: str) -> None:
    assert split_words(caption) == split_words(f"{caption} !")


def test_anls_forgives_less_than_half() -> None:
    random = Random("anls")
    for _ in range(ROUNDS):
        said, *answers = ("".join(random.choices("ab ", k=random.randint(0, 9))) for _ in range(4))
        best = 0.0
        for answer in answers:
            one, other = " ".join(said.split()), " ".join(answer.split())
            distance = find_edits(one, other) / max(len(one), len(other), 1)
            best = max(best, 1 - distance if distance < 0.5 else 0.0)
        assert score_anls(said.upper(), answers) == pytest.approx(best)


def test_vqa_accuracy_is_the_mean_over_leaving_one_annotator_out() -> None:
    random = Random("vqa")
    for _ in range(ROUNDS):
        answers = random.choices(["yes", "no", "2"], k=random.randint(2, 10))
        said = random.choice(["Yes.", "no", "two"])
        right = {"Yes.": "yes", "no": "no", "two": "2"}[said]
        shares = [min(1, others.count(right) / 3) for others in combinations(answers, len(answers) - 1)]
        assert score_vqa(said, answers) == pytest.approx(sum(shares) / len(shares))


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The two dogs!", "2 dogs"),
        ("isnt", "isn't"),
        ("couldnt've", "couldn't've"),
        ("y'alld've", "y'all'd've"),
        ("black-and-white", "black and white"),
        ("wait - what", "wait  what".replace("  ", " ")),
        ("1,000", "1000"),
        ("10.5 p.m.", "10.5 pm"),
        ("none", "0"),
        ("a\nb\tc", "b c"),
    ],
)
def test_answers_are_compared_as_the_official_evaluation_does(answer: str, normal: str) -> None:
    assert normalise_vqa(answer) == normal


def test_captions_are_cut_into_words_nearly_as_the_treebank() -> None:
    said = "A man's dog isn't on the well-lit U.S. road, at 10:30; \"won't\"..."
    assert " ".join(split_words(said)) == "a man 's dog is n't on the well-lit u.s. road at 10:30 wo n't"


def make_labels(random: Random) -> list[Case]:
    cases = []
    for _ in range(random.randint(5, 40)):
        chances = [random.choice([0.1, 0.2, 0.3, 0.4, 0.7]) for _ in "abc"]
        scores = sorted(
            ((name, chance / sum(chances)) for name, chance in zip("abc", chances, strict=True)),
            key=lambda one: -one[1],
        )
        label, sure = scores[0]
        right = label if random.random() < 0.5 else random.choice("abc")
        cases.append(make_case(label, [right], label=label, sure=sure, scores=scores))
    return cases


def test_classes_are_scored_as_their_definitions_say() -> None:
    random = Random("classes")
    for _ in range(ROUNDS):
        cases = make_labels(random)
        pairs = [(case.answers[0], case.label) for case in cases]
        measured = measure_accuracy(cases)
        assert value(measured, len(cases)) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
        f1s = []
        for name in sorted({name for pair in pairs for name in pair if name}):
            hits = pairs.count((name, name))
            right, said = sum(a == name for a, _ in pairs), sum(b == name for _, b in pairs)
            found = measured.details["classes"][name]
            assert found["precision"] == pytest.approx(hits / said if said else 0)
            assert found["recall"] == pytest.approx(hits / right if right else 0)
            assert found["count"] == right
            f1s.append(2 * hits / (right + said))
            assert found["f1"] == pytest.approx(f1s[-1])
        assert value(measure_f1(cases), len(cases)) == pytest.approx(sum(f1s) / len(f1s))
        confusion = measured.details["confusion"]
        for row, a in zip(confusion["matrix"], confusion["labels"], strict=True):
            assert row == [pairs.count((a, b)) for b in confusion["labels"]]


def test_rankings_are_scored_pair_by_pair() -> None:
    random = Random("rankings")
    for _ in range(ROUNDS):
        cases = make_labels(random)
        chances = [{name: chance for name, _, chance in case.scores}["a"] for case in cases]
        good = [chance for chance, case in zip(chances, cases, strict=True) if case.answers == ("a",)]
        bad = [chance for chance, case in zip(chances, cases, strict=True) if case.answers != ("a",)]
        if not good or not bad:
            continue
        wins = sum((g > b) + (g == b) / 2 for g in good for b in bad)
        assert value(measure_auc(cases, "a"), len(cases)) == pytest.approx(wins / len(good) / len(bad))
        precision = 0.0
        for level in sorted(set(good)):
            found = sum(g >= level for g in good)
            precision += good.count(level) / len(good) * found / (found + sum(b >= level for b in bad))
        assert value(measure_average_precision(cases, "a"), len(cases)) == pytest.approx(precision)


def test_calibration_compares_how_sure_with_how_often_right() -> None:
    random = Random("calibration")
    for _ in range(ROUNDS):
        cases = make_labels(random)
        error = 0.0
        for place in range(15):
            chosen = [case for case in cases if place / 15 < case.probability <= (place + 1) / 15]
            right = sum(case.label == case.answers[0] for case in chosen)
            error += abs(sum(case.probability for case in chosen) - right) / len(cases)
        assert value(measure_calibration(cases), len(cases)) == pytest.approx(error)


def test_exact_match_and_fields_of_data() -> None:
    cases = [
        make_case("Red Circle.", ["blue", "red circle"]),
        make_case("red", ["blue"]),
        make_case(data={"a": 1.0}, truth={"a": 1}),
    ]
    assert list(measure_exact(cases).values) == [1, 0, 1]  # type: ignore[arg-type]
    truth = {"vendor": "Bean & Leaf", "total": 12.4, "lines": [{"name": "tea"}], "at": {"city": "Oslo"}}
    said = {"vendor": "bean & leaf", "total": 12.5, "lines": [{"name": "Tea"}], "at": {"city": None}}
    measured = measure_fields([make_case(data=said, truth=truth), make_case(truth={"total": 1})])
    assert list(measured.values) == [0.5, 0]  # type: ignore[arg-type]
    assert measured.details["fields"]["total"] == {"accuracy": 0.0, "count": 2}
    assert measured.details["fields"]["at.city"]["accuracy"] == 0
    assert measured.details["fields"]["lines"]["accuracy"] == 1


def test_what_cannot_be_measured_says_so() -> None:
    with pytest.raises(UsageError, match="two images"):
        measure_cider([make_case("a", ["a"])])
    with pytest.raises(UsageError, match="no ranked labels"):
        measure_auc([make_case("a", ["a"])])
    with pytest.raises(UsageError, match="how sure"):
        measure_calibration([make_case("a", ["a"])])
