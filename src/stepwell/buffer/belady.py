"""Belady's rule with bypass over batches: of all copies at hand, keep those that are needed soonest.

For rows of equal worth this is exact: the kept intervals are a largest set of which at most `capacity` are open at any
border between batches (the greedy for a maximum k-colourable subgraph of an interval graph). An interval that would be
dropped before its end is never opened, so a row enters only if it will be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numba import njit

from stepwell.buffer.planned import Bits, Planned, check_plan
from stepwell.buffer.policy import Replacement, policies
from stepwell.buffer.trace import Trace

_PLACE_BITS = 34  # 1.7e10 accesses and 5e8 batches fit one int64 key


@policies.register("mrd")
@policies.register("belady")
@dataclass(frozen=True, slots=True)
class Belady:
    """Keep the rows that are needed soonest; a row that is needed later than all of them passes by.

    Guarantee: no policy of the same capacity hits more often on the trace, where every hit saves alike. Over a
    `reuse_trace` this is the replacement by minimum reuse distance (MRD) of reused embeddings.

    Args:
        memory: Bytes over all families.

    Cost:
        Planning is O(A log capacity) for A accesses; one byte an access.

    References:
        Belady, "A study of replacement algorithms for a virtual-storage computer", 1966. Carlisle and Lloyd, "On the
        k-coloring of intervals", 1995.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It needs the trace."""
        return True

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Plan the epoch and return the empty tier."""
        trace = check_plan("Belady", capacity, trace)
        return Planned(trace, soonest(trace, capacity))


def soonest(trace: Trace, capacity: int) -> Bits:
    """Return, for each access, whether Belady's rule keeps its row until its next use. O(A log capacity)."""
    return _soonest(trace.next_use, trace.indptr, capacity)


def soonest_reference(trace: Trace, capacity: int) -> Bits:
    """State what `soonest` must keep: as many, by sorting all candidates after every batch."""
    keep = np.zeros(len(trace.ids), np.bool_)
    held: list[int] = []
    for batch in range(len(trace)):
        held += range(trace.indptr[batch], trace.indptr[batch + 1])
        live = [place for place in held if batch < trace.next_use[place] < len(trace)]
        held = sorted(live, key=lambda place: (trace.next_use[place], place))[:capacity]
        keep[[place for place in live if place not in held]] = False
        keep[held] = True
    return keep


def hit_curve(trace: Trace, capacities: list[int]) -> list[int]:
    """Return the hits of Belady's rule at each capacity: the most that any policy can reach. One pass each."""
    return [int(soonest(trace, capacity).sum()) for capacity in capacities]


@njit(cache=True, nogil=True)
def _soonest(next_use: np.ndarray, indptr: np.ndarray, capacity: int) -> np.ndarray:
    num_batches = len(indptr) - 1
    keep = np.zeros(len(next_use), np.bool_)
    ending = np.zeros(num_batches + 1, np.int64)
    heap = [np.int64(0)]  # negative keys: the interval that ends last lies on top; those that ended lie below
    heap.pop()
    live = 0
    if capacity == 0:
        return keep
    for batch in range(num_batches):
        live -= ending[batch]
        if len(heap) > 2 * live + 1024:
            heap = [key for key in heap if (-key) >> _PLACE_BITS > batch]
            heapify(heap)
        for place in range(indptr[batch], indptr[batch + 1]):
            end = next_use[place]
            if end == num_batches:
                continue
            keep[place] = True
            ending[end] += 1
            live += 1
            heappush(heap, -((end << _PLACE_BITS) | place))
            if live > capacity:
                worst = -heappop(heap)
                keep[worst & ((1 << _PLACE_BITS) - 1)] = False
                ending[worst >> _PLACE_BITS] -= 1
                live -= 1
    return keep
