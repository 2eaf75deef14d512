"""Items with the same votes are one item that counts several times: what makes rules on many rows cheap."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.prepare.label.votes import Floats, Votes


@dataclass(frozen=True, eq=False)
class Patterns:
    """The distinct rows of votes.

    Args:
        indptr: Where the votes of each pattern begin, `[P + 1]`.
        source: Who voted, `[V']`.
        label: What, `[V']`.
        gold: The class known, else -1, `[P]`.
        weight: How many items have the pattern, `[P]`; 0 for the pattern of no votes and no gold, of which nothing
            can be learned.
        of: The pattern of each item, `[N]`.
    """

    indptr: Ids
    source: Ids
    label: Ids
    gold: Ids
    weight: Floats
    of: Ids


def patterns(votes: Votes, gold: Ids) -> Patterns:
    """Group the items whose votes, and whose truth where it is known, are the same.

    Args:
        votes: Votes for labels, sorted by item and source.
        gold: The class of each item where it is known, else -1, `[N]`.

    Cost: O(V + N log N).
    """
    keys = np.empty(len(votes.rows), np.uint64)
    _hash(votes.indptr, votes.source, votes.label, gold, keys)
    _, first, of = np.unique(keys, return_index=True, return_inverse=True)
    if not _all_alike(votes.indptr, votes.source, votes.label, gold, first[of]):
        first = of = np.arange(len(votes.rows))  # two rows of votes share a hash: group none
    size = np.diff(votes.indptr)[first]
    indptr = np.append(0, np.cumsum(size)).astype(np.int64)
    taken = np.repeat(votes.indptr[first] - indptr[:-1], size) + np.arange(indptr[-1])
    known = (size > 0) | (gold[first] >= 0)
    weight = np.where(known, np.bincount(of, minlength=len(first)), 0).astype(np.float64)
    return Patterns(indptr, votes.source[taken], votes.label[taken], gold[first], weight, of.astype(np.int64))


@numba.njit(cache=True, nogil=True)
def _hash(indptr: Ids, source: Ids, label: Ids, gold: Ids, keys: npt.NDArray[np.uint64]) -> None:
    for item in range(len(keys)):
        key = _mix(np.uint64(gold[item] + 1))
        for vote in range(indptr[item], indptr[item + 1]):
            key = _mix(key ^ np.uint64(source[vote]))
            key = _mix(key ^ np.uint64(label[vote]))
        keys[item] = key


@numba.njit(cache=True, nogil=True)
def _mix(key: np.uint64) -> np.uint64:
    """Return the key scrambled, each bit into all (the finaliser of splitmix64)."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _all_alike(indptr: Ids, source: Ids, label: Ids, gold: Ids, other: Ids) -> bool:
    """Say whether every item has the votes and gold of the item it is grouped with."""
    for item in range(len(other)):
        mine, theirs = indptr[item], indptr[other[item]]
        if indptr[item + 1] - mine != indptr[other[item] + 1] - theirs or gold[item] != gold[other[item]]:
            return False
        for vote in range(indptr[item + 1] - mine):
            if source[mine + vote] != source[theirs + vote] or label[mine + vote] != label[theirs + vote]:
                return False
    return True
