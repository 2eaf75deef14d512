"""Reading T-PPR lists of the past: which event last wrote a node's list before a query, and what stood in it.

A node's list changes only at its own events, so the list of (node, prefix) is the version that the newest of the
node's visible events left behind: one binary search in the T-CSR. Which end of that event the node is, the T-CSR tells
too: the ends of an undirected event are stored with the smaller node first, those of a directed one with the source
first.

Symbols beside the usual ones: `k` places of a list.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.threads import launch
from stepwell.kernels.tppr import Versions

Places = tuple[Ids, Ids, Ids, npt.NDArray[np.bool_], npt.NDArray[np.float32]]
"""`node`, `event`, `dt`, `mask` and `weight` of each place, `[S, K]`."""


class Rows(NamedTuple):
    """The rows of an index that a search needs.

    Args:
        indptr: Row borders, int64 `[N + 1]`.
        neighbor: Neighbours, int32 `[M]`.
        event: Positions, ascending within a row, int32 `[M]`.
    """

    indptr: Ids
    neighbor: npt.NDArray[np.int32]
    event: npt.NDArray[np.int32]


def event_ends(rows: Rows, time: Ids, ends: npt.NDArray[np.int32], times: Ids, *, directed: bool) -> None:
    """Write both ends and the time of every event, as the rows of an index have them.

    Args:
        rows: The index.
        time: Times of its entries, int64 `[M]`.
        ends: Gets the ends, int32 `[E, 2]`: the smaller node first, or the source if `directed`.
        times: Gets the times, int64 `[E]`.
        directed: Whether an event stands in its source's row only.

    Cost:
        O(M), in the order of the rows.
    """
    _event_ends(tuple(np.asarray(a) for a in rows), np.asarray(time), ends, times, directed)


def newest_versions(rows: Rows, nodes: Ids, before: Ids, *, directed: bool) -> Ids:
    """Return the version of each query: `2 * event + side` of the event that last changed its node's list.

    Args:
        rows: The index.
        nodes: Queried nodes, int64 `[S]`; one outside `[0, N)` has no list.
        before: Their visible prefixes, int64 `[S]`.
        directed: As in `event_ends`.

    Returns:
        int64 `[S]`, -1 where no event is visible.

    Cost:
        O(S log D) for the largest degree D.
    """
    nodes, before = np.ascontiguousarray(nodes, np.int64), np.ascontiguousarray(before, np.int64)
    if nodes.shape != before.shape or nodes.ndim != 1:
        raise InvalidValueError("before", before.shape, f"one entry for each of {nodes.shape} queries")
    found = np.empty(len(nodes), np.int64)
    arrays = tuple(np.asarray(a) for a in rows)
    launch(len(nodes), 16 * len(nodes), _newest, _newest_parallel, arrays, nodes, before, directed, found)
    return found


def read_versions(
    version: Ids,
    times: Ids,
    ends: npt.NDArray[np.int32],
    event_times: Ids,
    versions: Versions,
    out: Places,
    lane: tuple[int, int] = (0, 1),
) -> None:
    """Write what stands in each query's list, the heaviest place first.

    Args:
        version: Of each query, int64 `[S]`, -1 for an empty list.
        times: The queries' times, int64 `[S]`.
        ends: Both ends of each event, int32 `[E, 2]`.
        event_times: Their times, int64 `[E]`.
        versions: The lists after each event.
        out: Gets the places, arrays of `[S, K]`; padded ones become -1, -1, 0, False and 0.
        lane: (first, step): the list's place q goes to column `first + q * step`.

    Cost:
        O(S k).
    """
    arrays = (ends, event_times, versions.key, versions.weight)
    flat = tuple(np.asarray(a) for a in arrays)
    launch(len(version), len(version) * flat[2].shape[2], _read, _read_parallel, version, times, flat, out, lane)


def read_versions_reference(
    version: Ids, times: Ids, ends: npt.NDArray[np.int32], event_times: Ids, versions: Versions
) -> list[list[tuple[int, int, int, float]]]:
    """State what `read_versions` must write: (node, event, dt, weight) of each place of each query."""
    found = []
    for at, time in zip(version.tolist(), times.tolist(), strict=True):
        keys = versions.key[at // 2, at % 2].tolist() if at >= 0 else []
        weights = versions.weight[at // 2, at % 2].tolist() if at >= 0 else []
        found.append(
            [
                (int(ends[key // 2, key % 2]), key // 2, time - int(event_times[key // 2]), weight)
                for key, weight in zip(keys, weights, strict=True)
                if key >= 0
            ]
        )
    return found


# Jitted code is typed by Numba.
# ruff: noqa: ANN001, ANN202


@njit(cache=True, nogil=True)
def _event_ends(rows, time, ends, times, directed):  # type: ignore[no-untyped-def]
    indptr, neighbor, event = rows
    for node in range(len(indptr) - 1):
        for slot in range(indptr[node], indptr[node + 1]):
            position, other = event[slot], neighbor[slot]
            if directed or node <= other:
                ends[position, 0], ends[position, 1], times[position] = node, other, time[slot]


@njit(cache=True, nogil=True)
def _newest(first, last, rows, nodes, before, directed, found):  # type: ignore[no-untyped-def]
    indptr, neighbor, event = rows
    for row in range(first, last):
        node = nodes[row]
        found[row] = -1
        if node < 0 or node >= len(indptr) - 1:
            continue
        begin, low, high = indptr[node], indptr[node], indptr[node + 1]
        while low < high:
            middle = (low + high) >> 1
            if event[middle] < before[row]:
                low = middle + 1
            else:
                high = middle
        if low > begin:
            side = 0 if directed else np.int64(neighbor[low - 1] < node)
            found[row] = 2 * np.int64(event[low - 1]) + side


@njit(cache=True, nogil=True, parallel=True)
def _newest_parallel(threads, size, rows, nodes, before, directed, found):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _newest(size * part // threads, size * (part + 1) // threads, rows, nodes, before, directed, found)


@njit(cache=True, nogil=True)
def _read(first, last, version, times, arrays, out, lane):  # type: ignore[no-untyped-def]
    ends, event_times, keys, weights = arrays
    node, event, dt, mask, weight = out
    for row in range(first, last):
        at = version[row]
        for q in range(keys.shape[2]):
            column = lane[0] + q * lane[1]
            key = np.int64(-1)
            if at >= 0:
                key = np.int64(keys[at >> 1, at & 1, q])
            mask[row, column] = key >= 0
            if key >= 0:
                node[row, column], event[row, column] = ends[key >> 1, key & 1], key >> 1
                dt[row, column] = times[row] - event_times[key >> 1]
                weight[row, column] = weights[at >> 1, at & 1, q]
            else:
                node[row, column], event[row, column], dt[row, column], weight[row, column] = -1, -1, 0, 0.0


@njit(cache=True, nogil=True, parallel=True)
def _read_parallel(threads, size, version, times, arrays, out, lane):  # type: ignore[no-untyped-def]
    for part in prange(threads):
        _read(size * part // threads, size * (part + 1) // threads, version, times, arrays, out, lane)
