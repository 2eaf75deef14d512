"""Sources that are one source twice: copies count once."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stepwell.core import Ids
from stepwell.prepare.label.votes import Votes


@dataclass(frozen=True, eq=False)
class Merged:
    """Votes in which copies have become one source.

    Args:
        votes: The votes; sources that were merged into another have none left.
        leader: The source each source now speaks through, itself if it stands alone, `[m]`.
    """

    votes: Votes
    leader: Ids


def merge_correlated(votes: Votes, agreement: float, least: int = 10) -> Merged:
    """Merge sources that say the same on more than a share `agreement` of the items on which either says anything.

    What counts is the share of the union, not of the overlap: two sources that only ever vote for one label agree on
    their whole overlap by construction, and two good workers seldom meet. Chains are merged into one group, which
    speaks through its source with most votes (the first of them); on an item where that one is silent the next speaks.

    Args:
        votes: Votes for labels.
        agreement: Share above which two sources are one.
        least: Fewest votes of a source that may be merged.

    Cost: O(V log V + p v) for p pairs of sources of like size with v votes each; all pairs only where all sources
    have about the same number of votes.
    """
    size = votes.per_source
    leader = np.arange(len(size))
    said = votes.item * max(1, len(votes.classes)) + votes.label
    said = said[np.argsort(votes.source, kind="stable")]
    begin = np.append(0, np.cumsum(size)).astype(np.int64)
    order = np.lexsort((leader, -size))
    _lead(said, begin, order[size[order] >= least], agreement, leader)
    if (leader == np.arange(len(size))).all():
        return Merged(votes, leader)
    return Merged(_speak_once(votes, leader), leader)


@numba.njit(cache=True, nogil=True)
def _lead(said: Ids, begin: Ids, order: Ids, agreement: float, leader: Ids) -> None:
    """Write the leader of each source that says the same as one before it in `order` (most votes first)."""
    for place in range(len(order)):
        big = order[place]
        for other in range(place + 1, len(order)):
            small = order[other]
            if begin[small + 1] - begin[small] <= agreement * (begin[big + 1] - begin[big]):
                break  # smaller ones cannot reach the share
            if leader[small] == small and _agree(
                said[begin[big] : begin[big + 1]], said[begin[small] : begin[small + 1]], agreement
            ):
                leader[small] = leader[big]


@numba.njit(cache=True, nogil=True)
def _agree(a: Ids, b: Ids, agreement: float) -> bool:
    """Say whether two ascending lists share more than a part of their union; stop as soon as they cannot."""
    i, j, same = 0, 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            i, j, same = i + 1, j + 1, same + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
        most = same + min(len(a) - i, len(b) - j)
        if most <= agreement * (len(a) + len(b) - most):
            return False
    return same > agreement * (len(a) + len(b) - same)


def agree_reference(a: Ids, b: Ids, agreement: float) -> bool:
    """State what `_agree` must find."""
    return len(set(a) & set(b)) > agreement * len(set(a) | set(b))


def _speak_once(votes: Votes, leader: Ids) -> Votes:
    """Keep one vote of a group on an item, the leader's if it has one."""
    group = leader[votes.source]
    order = np.lexsort((votes.source, votes.source != group, group, votes.item))
    first = np.ones(len(order), bool)
    item, of = votes.item[order], group[order]
    first[1:] = (item[1:] != item[:-1]) | (of[1:] != of[:-1])
    kept = order[first]
    return Votes(
        votes.rows, votes.sources, votes.classes, item[first], of[first], votes.label[kept], votes.number[kept]
    )
