"""Which rows belong together: those of the same item in two files, and those with the same content."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .filter import Mask

NO_ROW = -1


def is_repeated(hashes: npt.NDArray[np.int64]) -> Mask:
    """Which numbers occur more than once."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    found = np.zeros(len(hashes), np.bool_)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found


def join_rows(
    files: npt.NDArray[np.int8], ids: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """For every row the one of the other file about the same item, or NO_ROW."""
    left, right = np.flatnonzero(files == 0), np.flatnonzero(files == 1)
    is_clear = all(len(np.unique(ids[rows])) == len(rows) for rows in (left, right))
    keys = ids if is_clear else items
    partner = np.full(len(files), NO_ROW, np.int64)
    left_keys, left_first = np.unique(keys[left], return_index=True)
    right_keys, right_first = np.unique(keys[right], return_index=True)
    _, in_left, in_right = np.intersect1d(left_keys, right_keys, assume_unique=True, return_indices=True)
    ours, theirs = left[left_first[in_left]], right[right_first[in_right]]
    partner[ours], partner[theirs] = theirs, ours
    return partner
