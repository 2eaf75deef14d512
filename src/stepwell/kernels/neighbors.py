"""A query's visible past in a T-CSR: the newest, a uniform draw, or a window of it.

A query `(node, before)` sees the events of its node at positions `< before`. Because positions ascend within a row,
the visible part of the row is a prefix, found by bisection; every sampler then only chooses places (slots) in that
prefix. Queries are handled in blocks of 64: first all bisections, whose cache misses then overlap, then all copies.

A `cursor` remembers where each node's prefix ended last time. Queries that come in time order mostly move it by one,
so galloping from there replaces the bisection. It is a guess that is always checked: any content, even random,
gives the same result, so several threads may share one without locks.
"""

from __future__ import annotations

from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.draws import below, philox
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.tcsr import Ints
from stepwell.kernels.threads import launch

Found: TypeAlias = "tuple[Ints, Ints, Ints, npt.NDArray[np.bool_]]"
_NO_CURSOR = np.empty(0, np.int64)


def newest_before(indptr: Ids, event: Ints, nodes: Ids, before: Ids, k: int) -> Ids:
    """Return the places of each query's `k` newest visible events.

    Guarantee: only events at positions `< before`; newest first; the same for any batching of the queries.

    Args:
        indptr: Row borders, int64 `[N + 1]`.
        event: Positions, ascending within each row, `[M]`.
        nodes: The queries' nodes, int64 `[S]`; a node outside `[0, N)` has no past.
        before: Their visible prefixes, int64 `[S]`.
        k: Events a query, at least 1.

    Returns:
        Places in the flat arrays, int64 `[S, k]`, -1 where padded.

    Raises:
        InvalidValueError: If `k < 1` or lengths differ.

    Cost:
        O(S (log D + k)) for largest degree D; allocates only the result.
    """
    nodes, before = _queries(k, nodes, before)
    slots = np.empty((len(nodes), k), np.int64)
    launch(len(nodes), slots.size, _newest, _newest_parallel, *_flat(indptr, event), nodes, before, slots)
    return slots


def recent_neighbors(
    indptr: Ids,
    neighbor: Ints,
    event: Ints,
    time: Ids,
    nodes: Ids,
    times: Ids,
    before: Ids,
    k: int,
    *,
    cursor: Ids | None = None,
    out: Found | None = None,
) -> Found:
    """Return the `k` newest visible events of each query themselves: `newest_before` and `read_slots` in one pass.

    Args:
        indptr: Row borders, int64 `[N + 1]`.
        neighbor: Neighbours, `[M]`.
        event: Positions, ascending within each row, `[M]`.
        time: Times, int64 `[M]`.
        nodes: The queries' nodes, int64 `[S]`; a node outside `[0, N)` has no past.
        times: Their times, int64 `[S]`.
        before: Their visible prefixes, int64 `[S]`.
        k: Events a query, at least 1.
        cursor: Where each node's prefix ended last, int64 `[N]`, updated in place; zeros to begin with. It changes
            the speed, never the result.
        out: Arrays to write instead of new ones, `[S, k]` each, C-ordered; their dtypes are kept (int32 fits where
            ids and time differences do).

    Returns:
        Neighbours (-1 where padded), positions (-1), `times` minus event times (0) and the mask of real events,
        `[S, k]` each, newest first; int64, int64, int64 and bool unless `out` says otherwise.

    Raises:
        InvalidValueError: If `k < 1` or lengths or shapes differ.

    Cost:
        O(S (log D + k)), or O(S (log of the cursor's move + k)); 25 S k bytes written.

    References:
        Rossi et al., "Temporal graph networks for deep learning on dynamic graphs", 2020, arXiv:2006.10637.
    """
    nodes, times, before = _queries(k, nodes, times, before)
    if cursor is None:
        cursor = _NO_CURSOR
    elif len(cursor) != len(indptr) - 1:
        raise InvalidValueError("cursor", len(cursor), f"one entry for each of {len(indptr) - 1} nodes")
    if out is None:
        out = _empty(len(nodes), k)
    elif any(array.shape != (len(nodes), k) for array in out):
        raise InvalidValueError("out", [array.shape for array in out], f"four arrays of shape {(len(nodes), k)}")
    flat = _flat(indptr, neighbor, event, time)
    launch(len(nodes), out[0].size, _recent, _recent_parallel, *flat, nodes, times, before, cursor, *out)
    return out


def uniform_before(indptr: Ids, event: Ints, nodes: Ids, before: Ids, k: int, key: int, lane: int, rows: Ids) -> Ids:
    """Return the places of `k` distinct visible events of each query, every subset being equally likely.

    Guarantee: a query's draw depends on `(key, lane, its row)` and its visible events alone, so it is the same in
    any batch, order, thread or process.

    Args:
        indptr: Row borders, int64 `[N + 1]`.
        event: Positions, ascending within each row, `[M]`.
        nodes: The queries' nodes, int64 `[S]`; a node outside `[0, N)` has no past.
        before: Their visible prefixes, int64 `[S]`.
        k: Events a query, at least 1; all of them if fewer are visible.
        key: `Draw.key`.
        lane: `Draw.lane(number)`; the query uses the `k` lanes from there.
        rows: The queries' rows in the whole run, int64 `[S]`; equal rows give equal draws.

    Returns:
        Places in the flat arrays, int64 `[S, k]`, newest first, -1 where padded.

    Raises:
        InvalidValueError: If `k < 1` or lengths differ.

    Cost:
        O(S (log D + k^2)); allocates only the result.

    References:
        Floyd's algorithm: Bentley and Floyd, "A sample of brilliance", CACM 1987.
    """
    nodes, before, rows = _queries(k, nodes, before, rows)
    slots = np.empty((len(nodes), k), np.int64)
    randomness = np.array([key, lane], np.uint64)
    flat = _flat(indptr, event)
    launch(len(nodes), slots.size, _uniform, _uniform_parallel, *flat, nodes, before, rows, randomness, slots)
    return slots


def window_before(indptr: Ids, event: Ints, time: Ids, nodes: Ids, times: Ids, before: Ids, k: int, width: int) -> Ids:
    """Return the places of each query's visible events not older than `width`, at most the `k` newest.

    Args:
        indptr: Row borders, int64 `[N + 1]`.
        event: Positions, ascending within each row, `[M]`.
        time: Times, int64 `[M]`.
        nodes: The queries' nodes, int64 `[S]`; a node outside `[0, N)` has no past.
        times: Their times, int64 `[S]`.
        before: Their visible prefixes, int64 `[S]`.
        k: Most events a query, at least 1.
        width: The window in the log's unit, at least 0: an event counts if its time is `>= times - width`.

    Returns:
        Places in the flat arrays, int64 `[S, k]`, newest first, -1 where padded.

    Raises:
        InvalidValueError: If `k < 1`, `width < 0` or lengths differ.

    Cost:
        O(S (log D + k)); allocates only the result.
    """
    nodes, times, before = _queries(k, nodes, times, before)
    if width < 0:
        raise InvalidValueError("width", width, "at least 0")
    slots = np.empty((len(nodes), k), np.int64)
    flat = _flat(indptr, event, time)
    launch(len(nodes), slots.size, _window, _window_parallel, *flat, nodes, times, before, np.int64(width), slots)
    return slots


def read_slots(neighbor: Ints, event: Ints, time: Ids, times: Ids, slots: Ids) -> Found:
    """Return what stands at the chosen places: neighbours, positions, time differences and mask.

    Args:
        neighbor: Neighbours, `[M]`.
        event: Positions, `[M]`.
        time: Times, int64 `[M]`.
        times: The queries' times, int64 `[S]`.
        slots: Places in the flat arrays, int64 `[S, k]`, -1 where padded.

    Returns:
        As `recent_neighbors`.

    Cost:
        O(S k); 25 S k bytes written.
    """
    times, slots = np.ascontiguousarray(times, np.int64), np.ascontiguousarray(slots, np.int64)
    if slots.ndim != 2 or len(slots) != len(times):
        raise InvalidValueError("slots", slots.shape, f"of shape [{len(times)}, k]")
    out = _empty(*slots.shape)
    launch(len(slots), slots.size, _read, _read_parallel, *_flat(neighbor, event, time), times, slots, *out)
    return out


def _queries(k: int, *columns: Ids) -> list[Ids]:
    if k < 1:
        raise InvalidValueError("k", k, "at least 1")
    arrays: list[Ids] = [np.ascontiguousarray(column, np.int64) for column in columns]
    for array in arrays:
        if array.ndim != 1 or len(array) != len(arrays[0]):
            raise InvalidValueError("query columns", [a.shape for a in arrays], "one-dimensional and of one length")
    return arrays


def _flat(*arrays: Ints) -> list[Ints]:
    """Return the index's arrays as plain ones: a memory map would take Numba's slow way in."""
    return [np.asarray(array) for array in arrays]


def _empty(rows: int, k: int) -> Found:
    shape = (rows, k)
    return np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.bool_)


# Below this line stands Numba code; its arguments are those of the public functions above.
# ruff: noqa: ANN001, ANN002, ANN202


@numba.njit(inline="always")
def _bisect(event, low, high, before):  # type: ignore[no-untyped-def]
    """Return the first place in `[low, high)` whose position is `>= before`, else `high`."""
    first, end = np.uint64(low), np.uint64(high)
    while first < end:
        middle = (first + end) >> np.uint64(1)
        if event[middle] < before:
            first = middle + np.uint64(1)
        else:
            end = middle
    return np.int64(first)


@numba.njit(inline="always")
def _gallop(event, begin, end, before, guess):  # type: ignore[no-untyped-def]
    """Return what `_bisect` over `[begin, end)` returns, searching outwards from `guess` by doubling steps."""
    guess = min(max(guess, begin), end)
    step = 1
    if guess < end and event[guess] < before:
        low = guess + 1
        while low + step <= end and event[low + step - 1] < before:
            low += step
            step <<= 1
        high = min(end, low + step - 1)
    else:
        high = guess
        while high - step >= begin and event[high - step] >= before:
            high -= step
            step <<= 1
        low = max(begin, high - step)
    return _bisect(event, low, high, before)


@numba.njit(inline="always")
def _prefix(indptr, event, node, before):  # type: ignore[no-untyped-def]
    """Return the places `[begin, stop)` that a query sees."""
    if node < 0 or node >= len(indptr) - 1:
        return np.int64(0), np.int64(0)
    begin = indptr[node]
    return begin, _bisect(event, begin, indptr[node + 1], before)


@numba.njit(cache=True, nogil=True)
def _recent(first, last, indptr, neighbor, event, time, nodes, times, before, cursor, node, position, dt, mask):  # type: ignore[no-untyped-def]
    k = node.shape[1]
    stops, counts = np.empty(64, np.int64), np.empty(64, np.int64)
    for block in range(first, last, 64):
        end = min(block + 64, last)
        for row in range(block, end):
            query = nodes[row]
            if len(cursor) > 0 and 0 <= query < len(indptr) - 1:
                begin = indptr[query]
                stop = _gallop(event, begin, indptr[query + 1], before[row], begin + cursor[query])
                if cursor[query] != stop - begin:
                    cursor[query] = stop - begin
            else:
                begin, stop = _prefix(indptr, event, query, before[row])
            stops[row - block], counts[row - block] = stop, min(k, stop - begin)
        for row in range(block, end):
            newest, count, now = stops[row - block] - 1, counts[row - block], times[row]
            for j in range(count):
                node[row, j] = neighbor[np.uint64(newest - j)]
            for j in range(count):
                position[row, j] = event[np.uint64(newest - j)]
            for j in range(count):
                dt[row, j] = now - time[np.uint64(newest - j)]
            for j in range(k):
                mask[row, j] = j < count
            for j in range(count, k):
                node[row, j], position[row, j], dt[row, j] = -1, -1, 0


@numba.njit(cache=True, nogil=True)
def _newest(first, last, indptr, event, nodes, before, slots):  # type: ignore[no-untyped-def]
    k = slots.shape[1]
    for row in range(first, last):
        begin, stop = _prefix(indptr, event, nodes[row], before[row])
        for j in range(k):
            slots[row, j] = stop - 1 - j if stop - 1 - j >= begin else -1


@numba.njit(cache=True, nogil=True)
def _window(first, last, indptr, event, time, nodes, times, before, width, slots):  # type: ignore[no-untyped-def]
    k = slots.shape[1]
    for row in range(first, last):
        begin, stop = _prefix(indptr, event, nodes[row], before[row])
        slot = stop - 1
        for j in range(k):
            inside = slot >= begin and times[row] - time[slot] <= width
            slots[row, j] = slot if inside else -1
            slot = slot - 1 if inside else begin - 1


@numba.njit(cache=True, nogil=True)
def _uniform(first, last, indptr, event, nodes, before, rows, randomness, slots):  # type: ignore[no-untyped-def]
    k = slots.shape[1]
    key, lane = randomness[0], randomness[1]
    for row in range(first, last):
        begin, stop = _prefix(indptr, event, nodes[row], before[row])
        visible = stop - begin
        if visible <= k:
            for j in range(k):
                slots[row, j] = stop - 1 - j if j < visible else -1
            continue
        for j in range(k):
            largest = visible - k + j
            pick = begin + below(philox(key, rows[row], lane + np.uint64(j)), largest + 1)
            place = 0
            while place < j and slots[row, place] > pick:
                place += 1
            if place < j and slots[row, place] == pick:
                pick, place = begin + largest, 0
            for move in range(j, place, -1):
                slots[row, move] = slots[row, move - 1]
            slots[row, place] = pick


@numba.njit(cache=True, nogil=True)
def _read(first, last, neighbor, event, time, times, slots, node, position, dt, mask):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        for j in range(slots.shape[1]):
            slot = slots[row, j]
            mask[row, j] = slot >= 0
            if slot >= 0:
                node[row, j], position[row, j], dt[row, j] = neighbor[slot], event[slot], times[row] - time[slot]
            else:
                node[row, j], position[row, j], dt[row, j] = -1, -1, 0


@numba.njit(cache=True, nogil=True, parallel=True)
def _recent_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _recent(part * rows // threads, (part + 1) * rows // threads, *args)


@numba.njit(cache=True, nogil=True, parallel=True)
def _newest_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _newest(part * rows // threads, (part + 1) * rows // threads, *args)


@numba.njit(cache=True, nogil=True, parallel=True)
def _window_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _window(part * rows // threads, (part + 1) * rows // threads, *args)


@numba.njit(cache=True, nogil=True, parallel=True)
def _uniform_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _uniform(part * rows // threads, (part + 1) * rows // threads, *args)


@numba.njit(cache=True, nogil=True, parallel=True)
def _read_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _read(part * rows // threads, (part + 1) * rows // threads, *args)
