"""Metrics of captions against several references of the same image, as coco-caption computes them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from ..errors import UsageError
from .cases import Case, Cases
from .intervals import Floats, Measured, take_mean
from .ngrams import CaptionSet, SizedGrams

LONGEST_NGRAM = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2


def measure_cider(cases: Sequence[Case]) -> Measured:
    """CIDEr-D (arXiv 1411.5726; `cider_scorer.py` of coco-caption) with a Python likeness of PTB words.

    The rarity of an n-gram is computed from the references of these cases, so values of different sets do not compare.
    """
    if len(cases) < 2:
        raise UsageError(
            "cider needs at least two images",
            hint="it weighs words by how rare they are in the references of other images",
        )
    captions, grams = _count(cases)
    return take_mean(score_cider(captions, grams))


def score_cider(captions: CaptionSet, grams: Sequence[SizedGrams]) -> Floats:
    """The score of each caption; 10 for one that equals its references."""
    said_pairs, reference_pairs = (
        np.bincount(counts.caption, counts.count, length)  # coco-caption takes the number of pairs for the length
        for counts, length in ((grams[1].said, captions.count), (grams[1].references, len(captions.case)))
    )
    apart = said_pairs[captions.case] - reference_pairs
    likeness = np.zeros(len(captions.case))
    for sized in grams:
        likeness += _compare_weights(captions, sized)
    scores = np.bincount(captions.case, likeness * np.exp(-(apart**2) / (2 * CIDER_SIGMA**2)), captions.count)
    every = np.bincount(captions.case, minlength=captions.count)
    return np.asarray(10 * scores / (LONGEST_NGRAM * np.maximum(every, 1)))


def _compare_weights(captions: CaptionSet, sized: SizedGrams) -> Floats:
    """The cosine of each reference with the caption; n-grams are weighted by rarity, and none counts more often than in
    the reference.
    """
    said, references = sized.said, sized.references
    # Sorted by hand: np.unique without counts goes by a hash table, twenty times slower here (NumPy 2.4).
    stands = np.sort(captions.case[references.caption] * max(sized.kinds, 1) + references.gram)
    documents = stands[np.append(True, stands[1:] != stands[:-1])[: len(stands)]]
    frequency = np.bincount(documents % max(sized.kinds, 1), minlength=sized.kinds)
    rarity = math.log(captions.count) - np.log(np.maximum(frequency, 1))
    own, theirs = said.count * rarity[said.gram], references.count * rarity[references.gram]
    is_said = sized.same >= 0
    product = np.minimum(own[sized.same[is_said]], theirs[is_said]) * theirs[is_said]
    dot = np.bincount(references.caption[is_said], product, len(captions.case)).astype(float)
    norms = np.sqrt(np.bincount(said.caption, own**2, captions.count))[captions.case]
    norms *= np.sqrt(np.bincount(references.caption, theirs**2, len(captions.case)))
    return np.asarray(np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0))


def measure_bleu(cases: Sequence[Case]) -> Measured:
    """BLEU-4 of the whole set (Papineni et al. 2002, ACL P02-1040; `bleu_scorer.py` of coco-caption): unsmoothed, the
    length of the closest reference. Python likeness of PTB words."""
    captions, grams = _count(cases)
    lengths = captions.said_lengths
    matched = [_count_matches(captions, sized) for sized in grams]
    every = [np.maximum(lengths - size, 0) for size in range(LONGEST_NGRAM)]
    sums = np.array([*matched, *every, lengths, _find_closest(captions)], float)
    return Measured(lambda weights: _combine_bleu(np.einsum("sc,c->s", sums, weights)))


def _count_matches(captions: CaptionSet, sized: SizedGrams) -> Floats:
    """The n-grams that a caption shares with its references, each at most as often as one of them has it."""
    said, is_said = sized.said, sized.same >= 0
    most = np.zeros(len(said.count), np.int64)
    np.maximum.at(most, sized.same[is_said], sized.references.count[is_said])
    return np.bincount(said.caption, np.minimum(said.count, most), captions.count).astype(float)


def _find_closest(captions: CaptionSet) -> Floats:
    """The length of the reference of each case that is closest in length, the shorter of two."""
    lengths, longest = captions.reference_lengths, int(captions.lengths.max(initial=0)) + 1
    keys = np.abs(lengths - captions.said_lengths[captions.case]) * longest + lengths
    least = np.full(captions.count, np.iinfo(np.int64).max)
    np.minimum.at(least, captions.case, keys)
    closest = np.where(least == np.iinfo(np.int64).max, 0, least % longest)
    return closest.astype(float)


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
    captions = _number(cases)
    said, every = captions.word_lists()
    common = [measure_subsequence(said[case], words) for case, words in zip(captions.case.tolist(), every, strict=True)]
    best = np.zeros((2, captions.count))
    for place, lengths in enumerate((captions.said_lengths[captions.case], captions.reference_lengths)):
        np.maximum.at(best[place], captions.case, np.array(common) / np.maximum(lengths, 1))
    precision, recall = best
    below = recall + ROUGE_BETA**2 * precision
    return take_mean((1 + ROUGE_BETA**2) * precision * recall / np.where(below > 0, below, 1))


def measure_subsequence(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, a word at a time in the bits of a number (Hyyrö 2004)."""
    places: defaultdict[Hashable, int] = defaultdict(int)
    for place, word in enumerate(one):
        places[word] |= 1 << place
    row = every = (1 << len(one)) - 1
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(one) - row.bit_count()


def _number(cases: Sequence[Case]) -> CaptionSet:
    return (cases if isinstance(cases, Cases) else Cases(cases)).captions


def _count(cases: Sequence[Case]) -> tuple[CaptionSet, list[SizedGrams]]:
    counted = cases if isinstance(cases, Cases) else Cases(cases)
    return counted.captions, counted.grams
