"""Planned residents: which copies a batch leaves behind that stay until their next use.

A plan over a trace is one bit an access: does the row stay, after this batch, until the next batch that needs it? Such
a stay is an *interval*; a plan is feasible if at no border between batches more intervals are open than there is room.
Everything planned (Belady, SIMPLE, MRD, static placement) differs only in how these bits are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numba import njit

from stepwell.buffer.policy import Moves
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError

Bits = npt.NDArray[np.bool_]


class Planned:
    """Residents that follow a plan, whatever the batches really touch.

    A row that the plan wants but that no batch touches yet is not fetched for its sake; one that the plan does not
    want is never admitted. So residents are always among the rows that the plan wants, and these fit the capacity: a
    wrong plan costs hits, never correctness.

    Args:
        trace: The epoch as it was foreseen.
        keep: For each access of the trace, whether its row stays until its next use.

    Cost:
        Nine bytes an access and two a row of the family; a step is O(rows touched and planned).
    """

    def __init__(self, trace: Trace, keep: Bits) -> None:
        # Not the trace: what it knows beyond its ids would stay in memory for as long as the tier.
        self._ids, self._indptr, self._num_rows, self._keep = trace.ids, trace.indptr, trace.num_rows, keep
        self._batch = 0
        self._wanted = np.zeros(trace.num_rows, np.bool_)
        self._resident = np.zeros(trace.num_rows, np.bool_)

    def step(self, ids: Ids) -> Moves:
        """Take the distinct rows that the next batch touched and return who comes and goes."""
        begin, end = 0, 0
        if self._batch < len(self._indptr) - 1:
            begin, end = self._indptr[self._batch], self._indptr[self._batch + 1]
            self._batch += 1
        planned, keep = self._ids[begin:end], self._keep[begin:end]
        return Moves(*_follow(np.asarray(ids, np.int64), planned, keep, self._wanted, self._resident))

    def misses(self) -> Iterator[Ids]:
        """Yield the rows that each batch of the trace will not find, if all happens as foreseen."""
        held = np.zeros(self._num_rows, np.bool_)
        for begin, end in pairwise(self._indptr.tolist()):
            yield _missing(self._ids[begin:end], self._keep[begin:end], held)


def check_plan(name: str, capacity: int, trace: Trace | None) -> Trace:
    """Return the trace that a planned policy needs.

    Raises:
        InvalidValueError: If there is none, or `capacity` is negative.
    """
    check_capacity(capacity)
    if trace is None:
        raise InvalidValueError("trace", trace, f"the trace of the epoch: {name} plans it beforehand")
    return trace


def check_capacity(capacity: int) -> None:
    """Refuse a negative number of rows."""
    if capacity < 0:
        raise InvalidValueError("capacity", capacity, "at least 0")


def open_intervals(trace: Trace, keep: Bits) -> Ids:
    """Count the intervals of a plan that are open after each batch, int64 `[T]`; a plan fits if none exceeds it."""
    start = np.repeat(np.arange(len(trace)), np.diff(trace.indptr))[keep]
    ends = np.minimum(trace.next_use[keep], len(trace))
    change = np.bincount(start, minlength=len(trace) + 1) - np.bincount(ends, minlength=len(trace) + 1)
    return np.cumsum(change)[: len(trace)].astype(np.int64)


@njit(cache=True, nogil=True)
def _follow(
    ids: np.ndarray, planned: np.ndarray, keep: np.ndarray, wanted: np.ndarray, resident: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    admit, evict = np.empty(len(ids), np.int64), np.empty(len(planned), np.int64)
    admitted = evicted = 0
    for place in range(len(planned)):
        row = planned[place]
        wanted[row] = keep[place]
        if resident[row] and not keep[place]:
            resident[row] = False
            evict[evicted] = row
            evicted += 1
    for row in ids:
        if wanted[row] and not resident[row]:
            resident[row] = True
            admit[admitted] = row
            admitted += 1
    return admit[:admitted], evict[:evicted]


@njit(cache=True, nogil=True)
def _missing(ids: np.ndarray, keep: np.ndarray, held: np.ndarray) -> np.ndarray:
    missing = np.empty(len(ids), np.int64)
    count = 0
    for place in range(len(ids)):
        if not held[ids[place]]:
            missing[count] = ids[place]
            count += 1
        held[ids[place]] = keep[place]
    return missing[:count]
