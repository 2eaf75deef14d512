"""SIMPLE: choose intervals of a known epoch by profit per batch of room that they take.

Keeping a row from one batch that touches it until the next is an *interval*: it takes one place at every border between
the two and saves what the later batch would move. `DensityGreedy` is the published selection. `Interval` is the one for
rows that a batch fetches once each: an interval then saves one row, whatever the number of samples that name it, and
for rows that are only read Belady's rule is the exact optimum. Where batches also rewrite rows (node state), one write
is saved too if a row stays from one write until the next: the intervals between form a *chain* that is worth one more
if it is kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numba import njit

from stepwell.buffer.belady import soonest
from stepwell.buffer.planned import Bits, Planned, check_plan
from stepwell.buffer.policy import Replacement, policies
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids


@policies.register("interval")
@dataclass(frozen=True, slots=True)
class Interval:
    """Keep the intervals that save most rows moved: exact where rows are only read, greedy where they are rewritten.

    Guarantee: on clean rows no policy of the same capacity fetches fewer; with rewritten rows never more is moved than
    by Belady's rule.

    Args:
        memory: Bytes over all families.

    Cost:
        Planning is O(A log A) for A accesses, and O(capacity T) more for T batches where rows are rewritten; one byte
        an access is kept.

    References:
        Gao et al., "SIMPLE: Efficient Temporal Graph Neural Network Training at Scale with Dynamic Data Placement",
        SIGMOD 2024. Differs: profit counts distinct rows, reads and writes saved; negatives are part of the trace.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It needs the trace."""
        return True

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Plan the epoch and return the empty tier."""
        trace = check_plan("Interval", capacity, trace)
        return Planned(trace, most_saving(trace, capacity))


@policies.register("density_greedy")
@dataclass(frozen=True, slots=True)
class DensityGreedy:
    """Keep intervals by end-batch multiplicity over length, densest first: SIMPLE as published.

    Args:
        memory: Bytes over all families, split by the raw volume of accesses.

    Cost:
        Planning is O(A log A + capacity T) for A accesses in T batches.

    References:
        Gao et al., SIGMOD 2024, algorithm for the interval selection problem.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It needs the trace."""
        return True

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Plan the epoch and return the empty tier."""
        trace = check_plan("DensityGreedy", capacity, trace)
        return Planned(trace, densest(trace, capacity, end_counts(trace)))


def most_saving(trace: Trace, capacity: int) -> Bits:
    """Return, for each access, whether `Interval` keeps its row until its next use."""
    few = soonest(trace, capacity)
    if trace.writes is None or not trace.writes.any():
        return few
    chained = densest(trace, capacity, np.ones(len(trace.ids), np.int64), trace.writes)
    return max((chained, few), key=lambda keep: saved_rows(trace, keep))


def end_counts(trace: Trace) -> Ids:
    """Return how often the batch that ends each access's interval names the row, int64 `[A]`; 0 without next use."""
    if trace.count is None:
        return (trace.next_use < len(trace)).astype(np.int64)
    after = _next_place(trace.ids, trace.indptr, trace.next_use, trace.num_rows)
    return np.where(after >= 0, trace.count[after], 0)


def saved_rows(trace: Trace, keep: Bits) -> int:
    """Count the rows that a plan need not move: reads of kept rows, and writes of chains that are kept whole."""
    saved = int(keep.sum())
    if trace.writes is not None:
        after = _next_place(trace.ids, trace.indptr, trace.next_use, trace.num_rows)
        saved += int(_whole_chains(after, trace.writes, keep))
    return saved


def densest(trace: Trace, capacity: int, profit: Ids, writes: Bits | None = None) -> Bits:
    """Return, for each access, whether the greedy by profit over length keeps its interval.

    Args:
        trace: The trace.
        capacity: Intervals that may be open at once.
        profit: What each access's interval saves, int64 `[A]`.
        writes: Which accesses rewrite the row: a chain of intervals between two writes saves one more if kept whole.
            None: no chains.
    """
    after = _next_place(trace.ids, trace.indptr, trace.next_use, trace.num_rows)
    chains = np.zeros(0, np.bool_) if writes is None else writes
    start = np.repeat(np.arange(len(trace)), np.diff(trace.indptr))
    return _densest(after, start, trace.next_use, profit, chains, len(trace), capacity)


def densest_reference(trace: Trace, capacity: int, profit: Ids) -> Bits:
    """State what `densest` keeps without chains: intervals one by one, by density, then by place."""
    start = np.repeat(np.arange(len(trace)), np.diff(trace.indptr))
    intervals = [place for place in range(len(trace.ids)) if trace.next_use[place] < len(trace)]
    free = np.full(len(trace), capacity)
    keep = np.zeros(len(trace.ids), np.bool_)
    for place in sorted(intervals, key=lambda p: (-profit[p] / (trace.next_use[p] - start[p]), p)):
        span = slice(start[place], trace.next_use[place])
        if free[span].min() >= 1:
            free[span] -= 1
            keep[place] = True
    return keep


@njit(cache=True, nogil=True)
def _next_place(ids: np.ndarray, indptr: np.ndarray, next_use: np.ndarray, num_rows: int) -> np.ndarray:
    """Return the access that ends each access's interval, -1 where there is none."""
    last = np.full(num_rows, -1, np.int64)
    after = np.empty(len(ids), np.int64)
    num_batches = len(indptr) - 1
    for place in range(len(ids) - 1, -1, -1):
        after[place] = last[ids[place]] if next_use[place] < num_batches else -1
        last[ids[place]] = place
    return after


@njit(cache=True, nogil=True)
def _chain_heads(after: np.ndarray, writes: np.ndarray) -> np.ndarray:
    """Return, for each access, the write that begins the chain its interval belongs to; -1 where a chain has no end."""
    head = np.full(len(after), -1, np.int64)
    for first in range(len(after)):
        if not writes[first]:
            continue
        last = after[first]
        while last >= 0 and not writes[last]:
            last = after[last]
        if last >= 0:
            place = first
            while place != last:
                head[place] = first
                place = after[place]
    return head


@njit(cache=True, nogil=True)
def _whole_chains(after: np.ndarray, writes: np.ndarray, keep: np.ndarray) -> int:
    whole = 0
    for first in range(len(after)):
        if writes[first]:
            place = first
            while keep[place] and after[place] >= 0:
                place = after[place]
                if writes[place]:
                    whole += 1
                    break
    return whole


@njit(cache=True, nogil=True)
def _fits(free: np.ndarray, begin: int, end: int) -> bool:
    for border in range(begin, end):
        if free[border] < 1:
            return False
    return True


@njit(cache=True, nogil=True)
def _densest(
    after: np.ndarray,
    start: np.ndarray,
    next_use: np.ndarray,
    profit: np.ndarray,
    writes: np.ndarray,
    num_batches: int,
    capacity: int,
) -> np.ndarray:
    size = len(after)
    keep = np.zeros(size, np.bool_)
    free = np.full(num_batches, capacity, np.int64)
    left, span = np.zeros(size, np.int64), np.zeros(size, np.int64)  # of each chain, at its head: what is not kept yet
    head = _chain_heads(after, writes) if len(writes) else np.full(size, -1, np.int64)
    heap = [(-profit[p] / (next_use[p] - start[p]), p) for p in range(size) if after[p] >= 0]
    for place in range(size):
        if head[place] >= 0:
            left[head[place]] += 1
            span[head[place]] += next_use[place] - start[place]
    heap += [(-(left[p] + 1) / span[p], size + p) for p in range(size) if left[p]]
    heapify(heap)
    while len(heap):
        density, which = heappop(heap)
        if which < size:
            chain = head[which]
            if keep[which]:
                continue
            if not _fits(free, start[which], next_use[which]):
                if chain >= 0:
                    left[chain] = 0
                continue
            keep[which] = True
            free[start[which] : next_use[which]] -= 1
            if chain >= 0 and left[chain] > 0:
                left[chain] -= 1
                span[chain] -= next_use[which] - start[which]
                if left[chain] > 0:
                    heappush(heap, (-(left[chain] + 1) / span[chain], size + chain))
        elif left[which - size] and density == -(left[which - size] + 1) / span[which - size]:
            _keep_chain(which - size, after, head, start, next_use, keep, free)
            left[which - size] = 0
    return keep


@njit(cache=True, nogil=True)
def _keep_chain(
    chain: int,
    after: np.ndarray,
    head: np.ndarray,
    start: np.ndarray,
    next_use: np.ndarray,
    keep: np.ndarray,
    free: np.ndarray,
) -> None:
    """Keep what is left of a chain, if all of it fits."""
    place = chain
    while place >= 0 and head[place] == chain:
        if not keep[place] and not _fits(free, start[place], next_use[place]):
            return
        place = after[place]
    place = chain
    while place >= 0 and head[place] == chain:
        if not keep[place]:
            keep[place] = True
            free[start[place] : next_use[place]] -= 1
        place = after[place]
