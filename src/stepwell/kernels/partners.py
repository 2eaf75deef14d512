"""Whom a source meets at a time, and whom it does not: what negatives are drawn from.

Symbols beside the usual ones: `D` destinations, `C` draws an event.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from stepwell.core.batch import Ids
from stepwell.core.draws import below, philox


class Meetings(NamedTuple):
    """Who met whom and when: the rows of a temporal index, and the events that they stand for.

    Args:
        indptr: Row of node n is `[indptr[n], indptr[n + 1])`, int64 `[N + 1]`.
        event: Positions, ascending within a row.
        time: Their times.
        src: Sources of all events, by position, `[E]`.
        dst: Destinations of all events, `[E]`.
    """

    indptr: np.ndarray
    event: np.ndarray
    time: np.ndarray
    src: np.ndarray
    dst: np.ndarray


class Partners(NamedTuple):
    """Distinct destinations of each source, ascending: row `n` is `[indptr[n], indptr[n + 1])` of `partner`."""

    indptr: Ids
    partner: Ids

    @classmethod
    def of(cls, pairs: Ids, num_nodes: int) -> Partners:
        """Return the partners in distinct, ascending pairs `src * num_nodes + dst`, int64 `[P]`."""
        src, dst = np.divmod(pairs, num_nodes)
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(src, minlength=num_nodes))])
        return cls(indptr, dst)


@numba.njit(cache=True, nogil=True)
def true_destinations(node: int, position: int, meetings: Meetings) -> np.ndarray:
    """Return the sorted distinct destinations that `node` meets as a source at the time of its event `position`."""
    row = meetings.event[meetings.indptr[node] : meetings.indptr[node + 1]]
    times = meetings.time[meetings.indptr[node] : meetings.indptr[node + 1]]
    place = np.searchsorted(row, position)
    low, high = place, place
    while low > 0 and times[low - 1] == times[place]:
        low -= 1
    while high < len(row) and times[high] == times[place]:
        high += 1
    found = np.empty(high - low, np.int64)
    count = 0
    for at in range(low, high):
        if meetings.src[row[at]] == node:
            found[count] = meetings.dst[row[at]]
            count += 1
    return np.unique(found[:count])


@numba.njit(cache=True, nogil=True)
def all_others(
    src: Ids,
    dst: Ids,
    position: Ids,
    destinations: Ids,
    meetings: Meetings,
    exclude_true: bool,  # noqa: FBT001
) -> Ids:
    """Return, for each event, the destinations that are not true for it, ascending, padded with -1.

    Args:
        src: Sources of the events, int64 `[B]`.
        dst: Their destinations, int64 `[B]`.
        position: Their positions, int64 `[B]`.
        destinations: All destinations, ascending, int64 `[D]`.
        meetings: Who met whom.
        exclude_true: Leave out all whom the source meets at this time, not only the event's own destination.

    Returns:
        int64 `[B, D - 1]`.

    Cost: O(D) an event.
    """
    out = np.full((len(src), len(destinations) - 1), -1, np.int64)
    for i in range(len(src)):
        true = true_destinations(src[i], position[i], meetings) if exclude_true else dst[i : i + 1]
        count, skip = 0, 0
        for node in destinations:
            while skip < len(true) and true[skip] < node:
                skip += 1
            if skip < len(true) and true[skip] == node:
                continue
            out[i, count] = node
            count += 1
    return out


@numba.njit(cache=True, nogil=True)
def idle_partners(
    src: Ids,
    position: Ids,
    partners: Partners,
    destinations: Ids,
    meetings: Meetings,
    randomness: np.ndarray,
    width: int,
) -> Ids:
    """Return partners of each source drawn among those not met now; destinations where there are none.

    The draw picks rank `r` among the partners that are left, then steps over the busy ones below it.

    Args:
        src: Sources of the events, int64 `[B]`.
        position: Their positions, which key the draws, int64 `[B]`.
        partners: Whom each source may be given.
        destinations: All destinations, ascending, int64 `[D]`.
        meetings: Who met whom.
        randomness: Key and first lane of a `Draw`, uint64 `[2]`.
        width: Draws an event.

    Returns:
        int64 `[B, width]`.

    Cost: O(log d + A + width (1 + A)) an event of a source of d events, A of them at this time.
    """
    out = np.empty((len(src), width), np.int64)
    for i in range(len(src)):
        known = partners.partner[partners.indptr[src[i]] : partners.indptr[src[i] + 1]]
        true = true_destinations(src[i], position[i], meetings)
        places = np.searchsorted(known, true)
        busy = np.empty(len(true), np.int64)
        num_busy = 0
        for place, node in zip(places, true):  # noqa: B905
            if place < len(known) and known[place] == node:
                busy[num_busy] = place
                num_busy += 1
        idle = len(known) - num_busy
        for j in range(width):
            bits = philox(randomness[0], position[i], randomness[1] + np.uint64(j))
            if idle == 0:
                out[i, j] = destinations[below(bits, len(destinations))]
                continue
            pick = below(bits, idle)
            for b in range(num_busy):
                if busy[b] <= pick:
                    pick += 1
            out[i, j] = known[pick]
    return out
