"""Metrics of captions against several others of the same image, as coco-caption computes them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..errors import UsageError
from .cases import Case
from .measured import Floats, Measured, take_mean
from .wording import split_words

_split_words = lru_cache(maxsize=1 << 18)(split_words)
"""Three metrics read the same captions."""

LONGEST_NGRAM = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2
Words = list[str]
Grams = Counter[tuple[str, ...]]


def measure_cider(cases: Sequence[Case]) -> Measured:
    """CIDEr-D (arXiv 1411.5726; `cider_scorer.py` of coco-caption) with a Python likeness of PTB words.

    How rare an n-gram is follows from the references of these cases, so values of different sets do not compare.
    """
    if len(cases) < 2:
        raise UsageError(
            "cider needs at least two images", hint="rare words are told by the other references"
        )
    return take_mean(score_cider(*_split(cases)))


def score_cider(said: Sequence[Words], references: Sequence[Sequence[Words]]) -> Floats:
    """The score of each caption; 10 for one that is its references."""
    counted = [[_count_ngrams(words) for words in every] for every in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for every in counted:
        frequency.update({ngram for grams in every for ngram in grams})
    documents = math.log(len(references))
    rarity = {ngram: documents - math.log(count) for ngram, count in frequency.items()}

    def weigh(grams: Grams) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST_NGRAM)]
        squares, length = [0.0] * LONGEST_NGRAM, 0
        for ngram, count in grams.items():
            size = len(ngram) - 1
            weight = count * rarity.get(ngram, documents)
            vectors[size][ngram] = weight
            squares[size] += weight * weight
            length += count if size == 1 else 0  # as coco-caption does, which counts pairs
        return vectors, [math.sqrt(square) for square in squares], length

    scores = np.zeros(len(said))
    for place, (words, every) in enumerate(zip(said, counted, strict=True)):
        own, own_norms, own_length = weigh(_count_ngrams(words))
        total = 0.0
        for grams in every:
            theirs, their_norms, their_length = weigh(grams)
            penalty = math.exp(-((own_length - their_length) ** 2) / (2 * CIDER_SIGMA**2))
            for size in range(LONGEST_NGRAM):
                if not own_norms[size] or not their_norms[size]:
                    continue
                other = theirs[size]
                dot = sum(
                    min(weight, right) * right
                    for ngram, weight in own[size].items()
                    if (right := other.get(ngram)) is not None
                )
                total += penalty * dot / (own_norms[size] * their_norms[size])
        scores[place] = 10 * total / (LONGEST_NGRAM * len(every)) if every else 0.0
    return scores


def measure_bleu(cases: Sequence[Case]) -> Measured:
    """BLEU-4 of the whole set (Papineni et al. 2002, ACL P02-1040; `bleu_scorer.py` of coco-caption): unsmoothed, the
    length of the closest reference. Python likeness of PTB words."""
    sums = np.array([_count_matches(*pair) for pair in zip(*_split(cases), strict=True)], float)
    return Measured(lambda weights: _combine_bleu(weights @ sums))


def _count_matches(said: Words, references: Sequence[Words]) -> list[int]:
    """Of each n the n-grams matched and said, then the length and that of the closest reference."""
    counted = [_count_ngrams(words) for words in references]
    matched, every = [0] * LONGEST_NGRAM, [max(0, len(said) - size) for size in range(LONGEST_NGRAM)]
    for ngram, count in _count_ngrams(said).items():
        most = 0
        for grams in counted:
            if ngram in grams:
                most = max(most, grams[ngram])
        matched[len(ngram) - 1] += min(count, most)
    closest = min((abs(len(words) - len(said)), len(words)) for words in references)[1] if references else 0
    return [*matched, *every, len(said), closest]


def _combine_bleu(sums: Floats) -> float:
    matched, every = sums[:LONGEST_NGRAM], sums[LONGEST_NGRAM : 2 * LONGEST_NGRAM]
    length, closest = sums[2 * LONGEST_NGRAM :]
    if not (matched > 0).all():
        return 0.0
    brevity = min(0.0, 1 - closest / length)
    return math.exp(brevity + float(np.log(matched / every).mean()))


def measure_rouge(cases: Sequence[Case]) -> Measured:
    """ROUGE-L (Lin 2004, ACL W04-1013; `rouge.py` of coco-caption): the longest common subsequence, F with beta 1.2
    of the best precision and the best recall over references. Python likeness of PTB words."""
    return take_mean(np.array([score_rouge(*pair) for pair in zip(*_split(cases), strict=True)], float))


def score_rouge(said: Words, references: Sequence[Words]) -> float:
    if not said or not any(references):
        return 0.0
    common = [measure_subsequence(said, words) for words in references]
    precision = max(common) / len(said)
    recall = max(one / len(words) for one, words in zip(common, references, strict=True) if words)
    if not precision:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def measure_subsequence(one: Words, other: Words) -> int:
    """The length of the longest common subsequence, a word at a time in the bits of a number (Hyyrö 2004)."""
    places: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    row = every = (1 << len(one)) - 1
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(one) - row.bit_count()


def _count_ngrams(words: Words) -> Grams:
    grams: Grams = Counter()
    for size in range(1, LONGEST_NGRAM + 1):
        grams.update(zip(*(words[start:] for start in range(size)), strict=False))
    return grams


def _split(cases: Sequence[Case]) -> tuple[list[Words], list[list[Words]]]:
    """The words of what was said, and of the references of each."""
    return (
        [_split_words(case.said) for case in cases],
        [[_split_words(answer) for answer in case.answers] for case in cases],
    )
