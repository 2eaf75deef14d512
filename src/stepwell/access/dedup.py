"""Distinct queries, nodes and events of one batch, each found once and referred to by row.

A batch asks about the same (node, time) again and again: a source beside its own candidates, a popular page, the
neighbours that two targets share. Everything below a batch therefore works on distinct rows, and whoever needs
duplicates gathers by row. One open-addressing table a call, sized for the batch, finds them in a single pass in
order of first appearance, so the result is the same for any number of threads.

Every function here runs without the interpreter lock and is stated again, one row at a time, by its `_reference`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

EVENT, BATCH, NODE = 0, 1, 2
"""How `root_targets` keys a query: its own time, its own time frozen at the batch, or the batch's time for all."""


@numba.njit(cache=True, nogil=True)
def first_position(times: np.ndarray, position: int) -> int:
    """Return the first position with the time of `position`, in O(log ties) by galloping back from it."""
    time = times[position]
    step = 1
    high = position
    low = position - 1
    while low >= 0 and times[low] == time:
        high = low
        low -= step
        step *= 2
    low = max(low, -1)
    while high - low > 1:  # times[low] < time (or low is -1) and times[high] == time
        middle = (low + high) // 2
        if times[middle] == time:
            high = middle
        else:
            low = middle
    return high


@numba.njit(cache=True, inline="always")
def _mix(a: int, b: int, c: int) -> np.uint64:
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(32)) ^ np.uint64(b)) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(c)) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _table(size: int) -> np.ndarray:
    slots = 16
    while slots < 2 * size:
        slots *= 2
    return np.full(slots, -1, np.int64)


@numba.njit(cache=True, inline="always")
def _place(table: np.ndarray, found: np.ndarray, count: int, node: int, time: int, before: int) -> int:
    """Return the row of a target among the first `count` of `found`, writing it at `count` if it is new."""
    mask = np.uint64(len(table) - 1)
    slot = _mix(node, time, before) & mask
    while True:
        row: int = table[slot]
        if row < 0:
            table[slot] = count
            found[0, count] = node
            found[1, count] = time
            found[2, count] = before
            return count
        if found[0, row] == node and found[1, row] == time and found[2, row] == before:
            return row
        slot = (slot + np.uint64(1)) & mask


@numba.njit(cache=True, inline="always")
def _place_id(table: np.ndarray, found: np.ndarray, count: int, key: int) -> int:
    mask = np.uint64(len(table) - 1)
    slot = _mix(key, 0, 0) & mask
    while True:
        row: int = table[slot]
        if row < 0:
            table[slot] = count
            found[count] = key
            return count
        if found[row] == key:
            return row
        slot = (slot + np.uint64(1)) & mask


@numba.njit(cache=True, nogil=True)
def root_targets(
    src: np.ndarray, candidate: np.ndarray, time: np.ndarray, event: np.ndarray, log_time: np.ndarray, key: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the distinct targets of a batch.

    Args:
        src: Source nodes, int64 `[B]`.
        candidate: Candidate nodes, int64 `[B, C]`; -1 is no candidate.
        time: Query times, int64 `[B]`.
        event: Positions of the batch's events, int64 `[B]`, ascending.
        log_time: Times of the whole log, int64, ascending.
        key: `EVENT`, `BATCH` or `NODE`.

    Returns:
        node, time, before of the targets, int64 `[U]` each; `src_row` int64 `[B]`; `candidate_row` int64 `[B, C]`, 0
        where there is no candidate.
    """
    width = candidate.shape[1]
    size = len(src) * (1 + width)
    found = np.empty((3, size), np.int64)
    table = _table(size)
    src_row = np.empty(len(src), np.int64)
    candidate_row = np.zeros(candidate.shape, np.int64)
    count = 0
    for i in range(len(src)):
        at = time[0] if key == NODE else time[i]
        before = first_position(log_time, event[i]) if key == EVENT else event[0]
        row = _place(table, found, count, src[i], at, before)
        count += row == count
        src_row[i] = row
        for j in range(width):
            if candidate[i, j] >= 0:
                row = _place(table, found, count, candidate[i, j], at, before)
                count += row == count
                candidate_row[i, j] = row
    return found[0, :count], found[1, :count], found[2, :count], src_row, candidate_row


@numba.njit(cache=True, nogil=True)
def next_targets(
    node: np.ndarray,
    time: np.ndarray,
    before: np.ndarray,
    neighbor: np.ndarray,
    event: np.ndarray,
    log_time: np.ndarray,
    at_edge: bool,  # noqa: FBT001
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the targets of the level below: every target itself and its neighbours, at the edge's time or the root's.

    Args:
        node: Targets' nodes, int64 `[U]`; (node, time, before) are distinct.
        time: Their times, int64 `[U]`.
        before: Their visible prefixes, int64 `[U]`.
        neighbor: Sampled neighbours, int64 `[U, K]`, -1 where padded.
        event: Positions of the sampled events, int64 `[U, K]`.
        log_time: Times of the whole log, int64, ascending.
        at_edge: Whether a neighbour is asked at its edge's time, else at the root's.

    Returns:
        node, time, before of the level below, int64 `[V]` each, its first U rows being the targets; `self_row`
        int64 `[U]`; `neighbor_row` int64 `[U, K]`, 0 where padded.
    """
    num, width = neighbor.shape
    size = num * (1 + width)
    found = np.empty((3, size), np.int64)
    table = _table(size)
    self_row = np.empty(num, np.int64)
    neighbor_row = np.zeros(neighbor.shape, np.int64)
    count = 0
    for i in range(num):
        self_row[i] = _place(table, found, count, node[i], time[i], before[i])
        count += 1
    for i in range(num):
        for j in range(width):
            if neighbor[i, j] < 0:
                continue
            at, visible = time[i], before[i]
            if at_edge:
                at = log_time[event[i, j]]
                visible = min(visible, first_position(log_time, event[i, j]))
            row = _place(table, found, count, neighbor[i, j], at, visible)
            count += row == count
            neighbor_row[i, j] = row
    return found[0, :count], found[1, :count], found[2, :count], self_row, neighbor_row


@numba.njit(cache=True, nogil=True)
def distinct_nodes(node: np.ndarray, neighbor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the distinct nodes below the last level: those of the targets and of their neighbours.

    Args:
        node: Targets' nodes, int64 `[U]`.
        neighbor: Sampled neighbours, int64 `[U, K]`, -1 where padded.

    Returns:
        Nodes int64 `[N]`; row of each target `[U]`; row of each neighbour `[U, K]`, 0 where padded.
    """
    num, width = neighbor.shape
    found = np.empty(num * (1 + width), np.int64)
    table = _table(len(found))
    self_row = np.empty(num, np.int64)
    neighbor_row = np.zeros(neighbor.shape, np.int64)
    count = 0
    for i in range(num):
        row = _place_id(table, found, count, node[i])
        count += row == count
        self_row[i] = row
    for i in range(num):
        for j in range(width):
            if neighbor[i, j] >= 0:
                row = _place_id(table, found, count, neighbor[i, j])
                count += row == count
                neighbor_row[i, j] = row
    return found[:count], self_row, neighbor_row


@numba.njit(cache=True, nogil=True)
def distinct_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct non-negative ids of `ids` int64 `[n]`, and each id's row `[n]`, 0 where it is negative."""
    found = np.empty(len(ids), np.int64)
    table = _table(len(ids))
    rows = np.zeros(len(ids), np.int64)
    count = 0
    for i in range(len(ids)):
        if ids[i] >= 0:
            row = _place_id(table, found, count, ids[i])
            count += row == count
            rows[i] = row
    return found[:count], rows


@numba.njit(cache=True, nogil=True)
def query_keys(node: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Hash (node, time) to int64 `[U]`: the row that keys a query's draws, whatever batch or hop it stands in."""
    keys = np.empty(len(node), np.int64)
    for i in range(len(node)):
        keys[i] = np.int64(_mix(node[i], time[i], 1) >> np.uint64(1))
    return keys


def first_position_reference(times: np.ndarray, position: int) -> int:
    """State what `first_position` must compute."""
    return int(np.searchsorted(times, times[position], side="left"))


def _rows(keys: Sequence[tuple[int, ...]], known: dict[tuple[int, ...], int]) -> list[int]:
    return [known.setdefault(key, len(known)) if key[0] >= 0 else 0 for key in keys]


def root_targets_reference(
    src: np.ndarray, candidate: np.ndarray, time: np.ndarray, event: np.ndarray, log_time: np.ndarray, key: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """State, one query at a time, what `root_targets` must compute."""
    known: dict[tuple[int, ...], int] = {}
    src_row, candidate_row = [], []
    for i, node in enumerate(src):
        at = int(time[0] if key == NODE else time[i])
        before = int(np.searchsorted(log_time, time[i], side="left") if key == EVENT else event[0])
        src_row += _rows([(int(node), at, before)], known)
        candidate_row.append(_rows([(int(other), at, before) for other in candidate[i]], known))
    targets = np.array(list(known), np.int64).reshape(-1, 3).T
    shape = candidate.shape
    return (*targets, np.array(src_row, np.int64), np.array(candidate_row, np.int64).reshape(shape))


def next_targets_reference(
    node: np.ndarray,
    time: np.ndarray,
    before: np.ndarray,
    neighbor: np.ndarray,
    event: np.ndarray,
    log_time: np.ndarray,
    at_edge: bool,  # noqa: FBT001
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """State, one neighbour at a time, what `next_targets` must compute."""
    known: dict[tuple[int, ...], int] = {}
    self_row = _rows([(int(n), int(t), int(b)) for n, t, b in zip(node, time, before, strict=True)], known)
    neighbor_row = []
    for i in range(len(node)):
        keys = []
        for other, position in zip(neighbor[i], event[i], strict=True):
            at, visible = int(time[i]), int(before[i])
            if at_edge and other >= 0:
                at = int(log_time[position])
                visible = min(visible, int(np.searchsorted(log_time, at, side="left")))
            keys.append((int(other), at, visible))
        neighbor_row.append(_rows(keys, known))
    targets = np.array(list(known), np.int64).reshape(-1, 3).T
    rows = np.array(neighbor_row, np.int64).reshape(neighbor.shape)
    return (*targets, np.array(self_row, np.int64), rows)


def distinct_nodes_reference(node: np.ndarray, neighbor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State what `distinct_nodes` must compute."""
    known: dict[tuple[int, ...], int] = {}
    self_row = _rows([(int(n),) for n in node], known)
    neighbor_row = _rows([(int(n),) for n in neighbor.ravel()], known)
    nodes = np.array([key[0] for key in known], np.int64)
    return nodes, np.array(self_row, np.int64), np.array(neighbor_row, np.int64).reshape(neighbor.shape)


def distinct_ids_reference(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State what `distinct_ids` must compute."""
    known: dict[tuple[int, ...], int] = {}
    rows = _rows([(int(i),) for i in ids], known)
    return np.array([key[0] for key in known], np.int64), np.array(rows, np.int64)
