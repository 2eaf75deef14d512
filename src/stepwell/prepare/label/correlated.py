"""Sources that are one source twice: copies count once."""

from __future__ import annotations

from dataclasses import dataclass

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
    by_source = np.split(said[np.argsort(votes.source, kind="stable")], np.cumsum(size)[:-1]) if len(size) else []
    order = np.lexsort((np.arange(len(size)), -size))
    order = order[size[order] >= least]
    for place, big in enumerate(order):
        for small in order[place + 1 :]:
            if size[small] <= agreement * size[big]:
                break  # smaller ones cannot reach the share
            if leader[small] == small and _share(by_source[big], by_source[small]) > agreement:
                leader[small] = leader[big]
    if (leader == np.arange(len(size))).all():
        return Merged(votes, leader)
    return Merged(_speak_once(votes, leader), leader)


def _share(a: Ids, b: Ids) -> float:
    same = len(np.intersect1d(a, b, assume_unique=True))
    return same / (len(a) + len(b) - same)


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
