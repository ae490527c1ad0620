"""Metrics of short answers and of values: each case has a score, and the metric is their mean."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .cases import Case
from .intervals import Measured, take_mean
from .wording import normalise_exact, normalise_vqa

ANLS_THRESHOLD = 0.5
_normalise_vqa = lru_cache(maxsize=1 << 16)(normalise_vqa)
_normalise_exact = lru_cache(maxsize=1 << 16)(normalise_exact)


def is_exact(said: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones, ignoring case, spaces and a full stop."""
    return _normalise_exact(said) in map(_normalise_exact, answers)


def measure_exact(cases: Sequence[Case]) -> Measured:
    """Exact match (SQuAD, arXiv 1606.05250, without its dropping of articles): the best over references."""
    return take_mean(np.array([_is_right(case) for case in cases], float))


def _is_right(case: Case) -> bool:
    if case.answers:
        return is_exact(case.label if case.label is not None else case.said, case.answers)
    return are_equal(case.data, case.truth)


def score_vqa(said: str, answers: Sequence[str]) -> float:
    """VQA accuracy (arXiv 1505.00468; visualqa.org/evaluation.html): min(n / 3, 1), where n others of the annotators
    said the same, averaged over leaving out each annotator. With a single reference: whether it is the same."""
    normal = _normalise_vqa(said)
    same, count = sum(_normalise_vqa(answer) == normal for answer in answers), len(answers)
    if count < 2:
        return float(same)
    return (same * min(1.0, (same - 1) / 3) + (count - same) * min(1.0, same / 3)) / count


def measure_vqa(cases: Sequence[Case]) -> Measured:
    return take_mean(np.array([score_vqa(case.said, case.answers) for case in cases], float))


def score_anls(said: str, answers: Sequence[str]) -> float:
    """ANLS (arXiv 1905.13648): 1 less the edit distance over the longer length, 0 from one half on; the best over
    references. Distance and lengths are both of texts in lower case with single spaces."""
    normal = " ".join(said.lower().split())
    best = 0.0
    for answer in answers:
        right = " ".join(answer.lower().split())
        longest = max(len(normal), len(right))
        distance = count_edits(normal, right) / longest if longest else 0.0
        best = max(best, 1 - distance if distance < ANLS_THRESHOLD else 0.0)
    return best


def measure_anls(cases: Sequence[Case]) -> Measured:
    return take_mean(np.array([score_anls(case.said, case.answers) for case in cases], float))


def count_edits(one: str, other: str) -> int:
    """The Levenshtein distance, a column at a time in the bits of a number (Myers 1999, as Hyyrö 2003 has it)."""
    if not one:
        return len(other)
    places: defaultdict[str, int] = defaultdict(int)
    for place, letter in enumerate(one):
        places[letter] |= 1 << place
    every, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    plus, minus, edits = every, 0, len(one)
    for letter in other:
        match = places.get(letter, 0)
        diagonal = (((match & plus) + plus) ^ plus) | match | minus
        rise, fall = minus | ~(diagonal | plus), plus & diagonal
        edits += bool(rise & last) - bool(fall & last)
        rise = (rise << 1) | 1
        plus = ((fall << 1) | ~(diagonal | rise)) & every
        minus = rise & diagonal & every
    return edits


def measure_fields(cases: Sequence[Case]) -> Measured:
    """Accuracy by field of `data`: the share of the reference's fields that are equal; its details are by field.

    Fields within fields have names with dots; lists are compared as a whole.
    """
    right: defaultdict[str, list[bool]] = defaultdict(list)
    values = np.zeros(len(cases))
    for place, case in enumerate(cases):
        said = dict(_list_fields(case.data))
        every = []
        for name, value in _list_fields(case.truth):
            every.append(name in said and are_equal(said[name], value))
            right[name].append(every[-1])
        values[place] = np.mean(every) if every else float(are_equal(case.data, case.truth))
    shares = {name: {"accuracy": float(np.mean(every)), "count": len(every)} for name, every in right.items()}
    return take_mean(values, {"fields": shares})


def _list_fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _list_fields(one, f"{name}.{key}" if name else str(key))
    elif name or value is not None:
        yield name or "value", value


def are_equal(said: Any, right: Any) -> bool:
    """Whether two JSON values are equal: texts as in exact match, numbers by value."""
    if isinstance(said, str) and isinstance(right, str):
        return normalise_exact(said) == normalise_exact(right)
    if isinstance(said, bool) or isinstance(right, bool):
        return said is right
    if isinstance(said, (int, float)) and isinstance(right, (int, float)):
        return math.isclose(said, right, rel_tol=1e-9)
    if isinstance(said, list) and isinstance(right, list):
        return len(said) == len(right) and all(map(are_equal, said, right))
    if isinstance(said, dict) and isinstance(right, dict):
        return said.keys() == right.keys() and all(are_equal(said[key], right[key]) for key in right)
    return said is None and right is None
