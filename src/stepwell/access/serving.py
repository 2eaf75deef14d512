"""Which computed or kept embedding serves each neighbour of a batch: the kernel of reuse, and its slow twin.

A neighbour is *asked* at a time. The newest embedding of its node that the batch computes at that time or before
serves it; else the one kept from earlier batches; else one more row is computed, at the earliest time at which anybody
asks who is not served, and serves all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from stepwell.access.dedup import _place_id, _table, first_position


class Served(NamedTuple):
    """How the neighbours of one level are served.

    Args:
        row: Row of each neighbour, int64 `[U, K]`, 0 where padded: the R given rows, then M misses, then P pulled ones.
        miss: node, time, before of the rows computed besides, int64 `[3, M]`.
        pulled: Nodes served from the store, int64 `[P]`.
        places: Distinct nodes with a place served in the batch; places served in the batch, from the store, by misses.
    """

    row: np.ndarray
    miss: np.ndarray
    pulled: np.ndarray
    places: np.ndarray


class Asked(NamedTuple):
    """Whom a level's targets ask.

    Args:
        node: Neighbours, int64 `[U, K]`, -1 where padded.
        event: Positions of the sampled events, int64 `[U, K]`.
        log_time: Times of the whole log, int64, ascending.
        at_edge: Whether a neighbour is asked at its edge's time, else at its target's.
        causal: Whether only embeddings of the asked time or earlier serve; else a node's latest serves all, and misses
            are computed at the latest time of the batch.
    """

    node: np.ndarray
    event: np.ndarray
    log_time: np.ndarray
    at_edge: bool
    causal: bool


class Kept(NamedTuple):
    """Which embeddings stand in a store.

    Args:
        slot_of: Slot of each node's, int32 `[N]`, -1 if there is none.
        made_in: Batch of each slot's, int64 `[m]`.
        oldest: First batch of which one may serve.
    """

    slot_of: np.ndarray
    made_in: np.ndarray
    oldest: int


def serve(targets: np.ndarray, asked: Asked, kept: Kept) -> Served:
    """Find who serves each neighbour.

    Args:
        targets: node, time, before of the R computed rows, int64 `[3, R]`; the first U ask.
        asked: Whom they ask.
        kept: What is kept of earlier batches.

    Cost:
        O(R + U K) and a table of that size; a popular node's versions in the batch are walked from the newest.
    """
    return Served(*_serve(targets, *asked, *kept))


@njit(cache=True, nogil=True)
def _newest_first(targets: np.ndarray, own: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Chain the rows of each node from its newest to its oldest; return who follows each row, -1 at the end."""
    time, older = targets[1], np.empty(targets.shape[1], np.int64)
    for row in range(len(older)):
        at, above = newest[own[row]], -1
        while at >= 0 and time[at] > time[row]:
            above, at = at, older[at]
        older[row] = at
        if above < 0:
            newest[own[row]] = row
        else:
            older[above] = row
    return older


@njit(cache=True, nogil=True)
def _versions(targets: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray]:
    """Number the nodes of the computed rows: the ids, their table, how many, each one's newest row, who follows it."""
    num_rows = targets.shape[1]
    found, table, count = np.empty(size, np.int64), _table(size), 0
    own_of = np.empty(num_rows, np.int64)
    for row in range(num_rows):
        own_of[row] = _place_id(table, found, count, targets[0, row])
        count += own_of[row] == count
    newest = np.full(size, -1, np.int64)
    return found, table, count, newest, _newest_first(targets, own_of, newest)


@njit(cache=True, nogil=True)
def _latest(targets: np.ndarray) -> int:
    time, before, last = targets[1], targets[2], 0
    for row in range(len(time)):
        if before[row] > before[last] or (before[row] == before[last] and time[row] > time[last]):
            last = row
    return last


@njit(cache=True, inline="always")
def _first_asked(miss: np.ndarray, new: int, ask: int, visible: int) -> None:
    if ask < miss[1, new] or (ask == miss[1, new] and visible < miss[2, new]):
        miss[1, new], miss[2, new] = ask, visible


@njit(cache=True, nogil=True)
def _serve(
    targets: np.ndarray,
    neighbor: np.ndarray,
    event: np.ndarray,
    log_time: np.ndarray,
    at_edge: bool,  # noqa: FBT001
    causal: bool,  # noqa: FBT001
    slot_of: np.ndarray,
    made_in: np.ndarray,
    oldest: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    num_rows, (num, width) = targets.shape[1], neighbor.shape
    time, before, size = targets[1], targets[2], num_rows + num * width
    found, table, count, newest, older = _versions(targets, size)
    last = _latest(targets)
    rows = np.zeros((num, width), np.int64)
    place, seen = np.full(size, -1, np.int64), np.zeros(size, np.bool_)
    miss, pulled = np.empty((3, num * width), np.int64), np.empty(num * width, np.int64)
    misses = pulls = 0
    counts = np.zeros(4, np.int64)
    for i in range(num):
        for j in range(width):
            node = neighbor[i, j]
            if node < 0:
                continue
            own = _place_id(table, found, count, node)
            count += own == count
            ask, at = log_time[event[i, j]] if at_edge else time[i], newest[own]
            while causal and at >= 0 and time[at] > ask:
                at = older[at]
            if at >= 0:
                rows[i, j] = at
                counts[0] += not seen[own]
                seen[own] = True
                counts[1] += 1
            elif slot_of[node] >= 0 and made_in[slot_of[node]] >= oldest:
                if place[own] < 0:
                    place[own], pulled[pulls] = pulls, node
                    pulls += 1
                rows[i, j] = -1 - place[own]
                counts[2] += 1
            else:
                visible = before[i] if causal else before[last]
                if not causal:
                    ask = time[last]
                elif at_edge:
                    visible = min(visible, first_position(log_time, event[i, j]))
                if place[own] < 0:
                    place[own] = misses
                    miss[0, misses], miss[1, misses], miss[2, misses] = node, ask, visible
                    misses += 1
                _first_asked(miss, place[own], ask, visible)
                rows[i, j] = num_rows + place[own]
                counts[3] += 1
    rows = np.where(rows < 0, num_rows + misses - 1 - rows, rows)
    return rows, miss[:, :misses].copy(), pulled[:pulls].copy(), counts


def serve_reference(targets: np.ndarray, asked: Asked, kept: Kept) -> Served:
    """State, one place at a time, what `serve` must find."""
    num_rows = targets.shape[1]
    latest = max(zip(targets[2], targets[1], strict=True), default=(0, 0))
    miss: dict[int, tuple[int, int]] = {}
    pulled: list[int] = []
    kind: dict[tuple[int, int], tuple[str, int]] = {}
    for (i, j), node in np.ndenumerate(asked.node):
        if node < 0:
            continue
        when = int(asked.log_time[asked.event[i, j]]) if asked.at_edge else int(targets[1, i])
        fits = [
            (int(targets[1, row]), row)
            for row in range(num_rows)
            if targets[0, row] == node and (targets[1, row] <= when or not asked.causal)
        ]
        if fits:
            kind[i, j] = ("batch", max(fits)[1])
        elif kept.slot_of[node] >= 0 and kept.made_in[kept.slot_of[node]] >= kept.oldest:
            pulled += [] if node in pulled else [int(node)]
            kind[i, j] = ("store", int(node))
        else:
            visible = int(targets[2, i])
            if asked.at_edge:
                visible = min(visible, int(np.searchsorted(asked.log_time, when, side="left")))
            ask = (when, visible) if asked.causal else (int(latest[1]), int(latest[0]))
            miss[int(node)] = min(miss.get(int(node), ask), ask)
            kind[i, j] = ("miss", int(node))
    row_of = {("miss", node): num_rows + place for place, node in enumerate(miss)}
    row_of |= {("store", node): num_rows + len(miss) + place for place, node in enumerate(pulled)}
    rows = np.zeros(asked.node.shape, np.int64)
    for spot, (how, which) in kind.items():
        rows[spot] = which if how == "batch" else row_of[how, which]
    missed = np.array([(node, *ask) for node, ask in miss.items()], np.int64).reshape(-1, 3).T
    slots = [sum(how == one for how, _ in kind.values()) for one in ("batch", "store", "miss")]
    in_batch = len({int(asked.node[spot]) for spot, (how, _) in kind.items() if how == "batch"})
    return Served(rows, missed, np.array(pulled, np.int64), np.array([in_batch, *slots]))
