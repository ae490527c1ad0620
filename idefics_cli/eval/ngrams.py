"""The words and n-grams of many captions as numbers, counted for all captions at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .wording import split_words

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GramCounts:
    """How often each n-gram is in each caption: three columns, by caption, then by n-gram."""

    caption: Integers
    gram: Integers
    count: Integers


@dataclass(frozen=True, slots=True)
class SizedGrams:
    """The n-grams of one length: of the captions, and of their references."""

    said: GramCounts
    references: GramCounts
    same: Integers
    """For each entry of the references that of what was said of the same case, or -1 where it was not said."""
    kinds: int
    """How many different ones there are."""


class CaptionSet:
    """The captions of all cases and their references, as numbers of words. Memory: about 100 bytes a word."""

    def __init__(self, said: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        self.case = np.repeat(np.arange(len(said)), [len(every) for every in references])
        """Of each reference the case it belongs to."""
        self.count = len(said)
        self.lengths, self.words = _number_words([*said, *(one for every in references for one in every)])
        self._starts = np.cumsum(self.lengths) - self.lengths

    @property
    def said_lengths(self) -> Integers:
        return self.lengths[: self.count]

    @property
    def reference_lengths(self) -> Integers:
        return self.lengths[self.count :]

    def word_lists(self) -> tuple[list[list[int]], list[list[int]]]:
        """The words of each caption: of the answers, and of the references."""
        words = self.words.tolist()
        ends = (self._starts + self.lengths).tolist()
        every = [words[start:end] for start, end in zip(self._starts.tolist(), ends, strict=True)]
        return every[: self.count], every[self.count :]

    def count_grams(self, longest: int) -> list[SizedGrams]:
        """The n-grams of one word, of two, up to `longest`."""
        owner = np.repeat(np.arange(len(self.lengths)), self.lengths)
        kinds, grams = int(self.words.max(initial=-1)) + 1, self.words
        vocabulary, found = kinds, [self._count(owner, grams, kinds)]
        for size in range(2, longest + 1):
            # What begins at a place: the n-gram one shorter that begins there, and the word behind it.
            follows = owner[: len(grams) - 1] == owner[size - 1 :]
            pairs = grams[:-1] * vocabulary + self.words[size - 1 :]
            different, numbers = np.unique(pairs[follows], return_inverse=True)
            kinds, grams = len(different), np.zeros(len(pairs), np.int64)
            grams[follows] = numbers
            found.append(self._count(owner[: len(pairs)][follows], numbers, kinds))
        return found

    def _count(self, owner: Integers, grams: Integers, kinds: int) -> SizedGrams:
        keys, counts = np.unique(owner * max(kinds, 1) + grams, return_counts=True)
        caption, gram = np.divmod(keys, max(kinds, 1))
        split = int(np.searchsorted(caption, self.count))
        said = GramCounts(caption[:split], gram[:split], counts[:split])
        references = GramCounts(caption[split:] - self.count, gram[split:], counts[split:])
        wanted = self.case[references.caption] * max(kinds, 1) + references.gram
        same = np.searchsorted(keys[:split], wanted)
        is_said = np.append(keys[:split], -1)[same] == wanted
        return SizedGrams(said, references, np.where(is_said, same, -1), kinds)


def _number_words(captions: Iterable[str]) -> tuple[Integers, Integers]:
    """The number of words of each caption, and all words as numbers."""
    known: dict[str, int] = {}
    lengths, numbers = [], []
    for caption in captions:
        words = split_words(caption)
        lengths.append(len(words))
        numbers += [known.setdefault(word, len(known)) for word in words]
    return np.array(lengths, np.int64), np.array(numbers, np.int64)
