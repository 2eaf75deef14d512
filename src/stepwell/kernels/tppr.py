"""SANTA: the top-k lists of temporal personalised PageRank, kept up to date event by event.

A walk from (node, now) stops with probability alpha, else goes on to one of the node's earlier events, the z-th newest
with probability proportional to beta^z, and stands at that event's other end, at that event's time. The chance to stop
somewhere is T-PPR. One event (u, v) changes the chances of u and v alone, and does so linearly:

    new_u = a old_u + b (old_v + alpha [v, now]),   a = m_u / (m_u + 1),  b = (1 - alpha) / (m_u + 1)

with `m_u` the sum of beta^z over u's events. SANTA applies this to lists cut to their k largest weights. A place of a
list is a key `2 * event + side`: that end of that event, at its time. Nodes and times are looked up in the log, never
stored.

Symbols beside the usual ones: `k` places of a list, `V` events whose lists are written out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError

Floats = npt.NDArray[np.float64]

MAX_EVENTS = 1 << 30
"""More events than this have keys beyond int32."""


class Lists(NamedTuple):
    """The lists of all nodes as of the last event, with what is known about their error.

    Args:
        key: Places of each list, newest first, int64 `[N, k]`; what stands behind `length` means nothing.
        weight: T-PPR of each place, never above the exact one, float64 `[N, k]`.
        length: How many places each list has, int64 `[N]`.
        norm: Sum of beta^z over each node's events, float64 `[N]`.
        bound: No place's exact weight, listed or not, is above its listed one by more than this, float64 `[N]`.
        mass: Exact sum of all places' weights, float64 `[N]`; less the listed sum it is the exact missing mass.
        threshold: Largest weight that was the smallest kept one when a place was dropped, float64 `[1]`.
    """

    key: Ids
    weight: Floats
    length: Ids
    norm: Floats
    bound: Floats
    mass: Floats
    threshold: Floats

    @classmethod
    def empty(cls, num_nodes: int, k: int) -> Lists:
        """Return the lists before the first event: `16 k + 32` bytes a node."""
        wide, flat = (num_nodes, k), num_nodes
        return cls(
            np.zeros(wide, np.int64),
            np.zeros(wide),
            np.zeros(flat, np.int64),
            np.zeros(flat),
            np.zeros(flat),
            np.zeros(flat),
            np.zeros(1),
        )

    def copy(self) -> Lists:
        """Return a deep copy: no later event reaches it."""
        return Lists(*(array.copy() for array in self))  # type: ignore[arg-type]  # each of its own type


class Versions(NamedTuple):
    """Both ends' lists as each of V events left them, ordered by weight, the heaviest first.

    Args:
        key: int32 `[V, 2, k]`, -1 where padded; `[:, 0]` is of the first end.
        weight: float32 `[V, 2, k]`, 0 where padded.
        bound: float64 `[V, 2]`.
        mass: float64 `[V, 2]`.
    """

    key: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    bound: Floats
    mass: Floats

    @classmethod
    def empty(cls, num_events: int, k: int) -> Versions:
        """Return room for the versions of some events: `16 k + 32` bytes an event."""
        shape = (num_events, 2)
        return cls(
            np.full((*shape, k), -1, np.int32), np.zeros((*shape, k), np.float32), np.zeros(shape), np.zeros(shape)
        )


def advance(
    lists: Lists,
    ends: npt.NDArray[np.int32],
    first: int,
    alpha: float,
    beta: float,
    *,
    directed: bool = False,
    versions: Versions | None = None,
) -> None:
    """Apply consecutive events to the lists, in place.

    Guarantee: both ends read what the other had before the event; a self-loop counts once; of equal weights the older
    is cut. The bits do not depend on how the events are divided among calls.

    Args:
        lists: The lists as of event `first - 1`.
        ends: Both ends of each event, int32 `[V, 2]`.
        first: Position of the first of them.
        alpha: Chance to stop at each step, in `[0, 1)`. At 0 no walk would ever stop, and weights are by convention
            chances of passing by.
        beta: Decay from one event of a node to its next older one, in `(0, 1]`.
        directed: Whether only the first end sees the event.
        versions: Where to write what each event leaves; None: nowhere.

    Raises:
        InvalidValueError: If a parameter is out of range, or there are too many events for the keys.

    Cost:
        O(k^2) comparisons an event without branches, for k up to some dozens cheaper than a selection in O(k); one
        thread; allocates nothing that grows.

    References:
        Li et al., "Zebra: When Temporal Graph Neural Networks Meet Temporal Personalized PageRank", PVLDB 16(6), 2023,
        theorem 4 and algorithm 1. Differs: the two certificates; the paper's bound follows from one global threshold.
    """
    check_decay(alpha, beta)
    if first + len(ends) > MAX_EVENTS:
        raise InvalidValueError("events", first + len(ends), f"at most {MAX_EVENTS}, so that keys fit int32")
    room = Versions.empty(0, lists.key.shape[1]) if versions is None else versions
    if versions is not None and len(room.key) < len(ends):
        raise InvalidValueError("versions", len(room.key), f"at least as long as the events ({len(ends)})")
    _advance(np.ascontiguousarray(ends, np.int32), first, alpha, beta, directed, tuple(lists), tuple(room))


def score_candidates(
    lists: Lists, ends: npt.NDArray[np.int32], src: npt.NDArray[np.int32], candidate: Ids, out: Floats
) -> None:
    """Write the T-PPR of each candidate from its source: the sum of the candidate's places in the source's list.

    Args:
        lists: The lists.
        ends: Both ends of every event so far, int32 `[E, 2]`.
        src: Sources, int32 `[B]`.
        candidate: Their candidates, int64 `[B, C]`; one outside `[0, N)` has 0.
        out: Gets the scores, float64 `[B, C]`.

    Cost:
        O(k + C) a source.
    """
    _score(ends, src, candidate, tuple(lists), np.zeros(len(lists.key)), out)


def score_then_advance(
    lists: Lists, ends: npt.NDArray[np.int32], first: int, alpha: float, beta: float, candidate: Ids, out: Floats
) -> None:
    """Do both event by event: score the candidates of each event's first end, then apply the event.

    Args:
        lists: The lists as of event `first - 1`; changed in place.
        ends: Both ends of every event, these included, int32 `[first + B, 2]`.
        first: Position of the first event of these B.
        alpha: As in `advance`.
        beta: As in `advance`.
        candidate: Candidates, int64 `[B, C]`.
        out: Gets the scores, float64 `[B, C]`.
    """
    check_decay(alpha, beta)
    room = Versions.empty(0, lists.key.shape[1])
    _stream(ends, first, alpha, beta, candidate, tuple(lists), tuple(room), np.zeros(len(lists.key)), out)


def check_decay(alpha: float, beta: float) -> None:
    """Raise `InvalidValueError` unless alpha and beta make a walk."""
    if not 0 <= alpha < 1:
        raise InvalidValueError("alpha", alpha, "at least 0 and below 1")
    if not 0 < beta <= 1:
        raise InvalidValueError("beta", beta, "above 0 and at most 1")


def advance_reference(
    ends: npt.NDArray[np.int32], num_nodes: int, k: int, alpha: float, beta: float, *, directed: bool = False
) -> list[list[tuple[dict[int, float], float, float]]]:
    """State with dictionaries what `advance` must compute: after each event every node's list, bound and mass."""
    lists: list[dict[int, float]] = [{} for _ in range(num_nodes)]
    norm, bound, mass = [0.0] * num_nodes, [0.0] * num_nodes, [0.0] * num_nodes
    unit = alpha or 1.0
    history = []
    for event, (u, v) in enumerate(ends.tolist()):
        changed = {}
        for node, other, side in ((u, v, 1), (v, u, 0)):
            if side == 0 and (directed or u == v):
                continue
            a, b = norm[node] / (norm[node] + 1), (1 - alpha) / (norm[node] + 1)
            merged = {2 * event + side: b * unit}
            for key in lists[node].keys() | lists[other].keys():
                merged[key] = a * lists[node].get(key, 0.0) + b * lists[other].get(key, 0.0)
            ranked = sorted(merged, key=lambda key: (-merged[key], -key))
            dropped = merged[ranked[k]] if len(ranked) > k else 0.0
            changed[node] = (
                {key: merged[key] for key in ranked[:k]},
                a * bound[node] + b * bound[other] + dropped,
                a * mass[node] + b * (mass[other] + unit),
            )
        for node, (lists[node], bound[node], mass[node]) in changed.items():
            norm[node] = norm[node] * beta + beta
        history.append([(dict(lists[node]), bound[node], mass[node]) for node in range(num_nodes)])
    return history


# Jitted code is typed by Numba. Arrays come as one tuple.
# ruff: noqa: ANN001, ANN202


@njit(inline="always")
def _merge(u, v, lists, key, mine, theirs):  # type: ignore[no-untyped-def]
    """Write the distinct keys of two lists behind place 0, newest first, with both nodes' weights; return the end."""
    keys, weights, lengths = lists[0], lists[1], lists[2]
    end_u, end_v = lengths[u], lengths[v]
    i, j, n = 0, 0, 1
    while i < end_u and j < end_v:
        x, y = keys[u, i], keys[v, j]
        key[n] = max(x, y)
        mine[n] = weights[u, i] if x >= y else 0.0
        theirs[n] = weights[v, j] if y >= x else 0.0
        i += x >= y
        j += y >= x
        n += 1
    while i < end_u:
        key[n], mine[n], theirs[n] = keys[u, i], weights[u, i], 0.0
        i += 1
        n += 1
    while j < end_v:
        key[n], mine[n], theirs[n] = keys[v, j], 0.0, weights[v, j]
        j += 1
        n += 1
    return n


@njit(inline="always")
def _rank(weight, n, rank):  # type: ignore[no-untyped-def]
    """Number `n` weights from the heaviest; of equal ones the earlier goes first."""
    for i in range(n):
        x = weight[i]
        before = np.int64(0)
        for j in range(i):
            ahead = np.int64(weight[j] >= x)
            before += ahead
            rank[j] += 1 - ahead
        rank[i] = before


@njit(inline="always")
def _keep(node, n, key, weight, rank, ranked_key, ranked_weight, lists):  # type: ignore[no-untyped-def]
    """Make the k heaviest of `n` places the node's list; return the largest weight that was dropped."""
    keys, weights, lengths, threshold = lists[0], lists[1], lists[2], lists[6]
    k = keys.shape[1]
    for i in range(n):
        ranked_key[rank[i]] = key[i]
        ranked_weight[rank[i]] = weight[i]
    if n < k:
        for i in range(n):
            keys[node, i], weights[node, i] = key[i], weight[i]
        lengths[node] = n
        return 0.0
    place = 0
    for i in range(n):
        if rank[i] < k:
            keys[node, place], weights[node, place] = key[i], weight[i]
            place += 1
    lengths[node] = k
    if n == k:
        return 0.0
    threshold[0] = max(threshold[0], ranked_weight[k - 1])
    return ranked_weight[k]


@njit(inline="always")
def _write(row, side, length, ranked_key, ranked_weight, bound, mass, versions):  # type: ignore[no-untyped-def]
    keys, weights = versions[0], versions[1]
    for i in range(length):
        keys[row, side, i], weights[row, side, i] = ranked_key[i], ranked_weight[i]
    for i in range(length, keys.shape[2]):
        keys[row, side, i], weights[row, side, i] = -1, 0.0
    versions[2][row, side], versions[3][row, side] = bound, mass


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(ends, first, alpha, beta, directed, lists, versions):  # type: ignore[no-untyped-def]
    lengths, norm, bound, mass = lists[2], lists[3], lists[4], lists[5]
    k = lists[0].shape[1]
    size = 2 * k + 1
    key, rank = np.empty(size, np.int64), np.empty(size, np.int64)
    mine, theirs, weight = np.empty(size), np.empty(size), np.empty(size)
    ranked_key, ranked_weight = np.empty(size, np.int64), np.empty(size)
    unit = alpha if alpha > 0 else 1.0
    for row in range(len(ends)):
        u, v = ends[row, 0], ends[row, 1]
        old = norm[u], norm[v], bound[u], bound[v], mass[u], mass[v]
        n = _merge(u, v, lists, key, mine, theirs)
        sides = 1 if directed or u == v else 2
        for side in range(sides):
            node = v if side else u
            m, e, s = (old[1], old[3], old[5]) if side else (old[0], old[2], old[4])
            e_other, s_other = (old[2], old[4]) if side else (old[3], old[5])
            a, b = m / (m + 1), (1 - alpha) / (m + 1)
            key[0], weight[0] = 2 * (first + row) + 1 - side, b * unit
            if side:
                for i in range(1, n):
                    weight[i] = a * theirs[i] + b * mine[i]
            else:
                for i in range(1, n):
                    weight[i] = a * mine[i] + b * theirs[i]
            _rank(weight, n, rank)
            dropped = _keep(node, n, key, weight, rank, ranked_key, ranked_weight, lists)
            bound[node] = a * e + b * e_other + dropped
            mass[node] = a * s + b * (s_other + unit)
            norm[node] = m * beta + beta
            if len(versions[0]):
                _write(row, side, lengths[node], ranked_key, ranked_weight, bound[node], mass[node], versions)


@njit(cache=True, nogil=True)
def _score(ends, src, candidate, lists, table, out):  # type: ignore[no-untyped-def]
    keys, weights, lengths = lists[0], lists[1], lists[2]
    for row in range(len(src)):
        node = src[row]
        for i in range(lengths[node]):
            key = keys[node, i]
            table[ends[key >> 1, key & 1]] += weights[node, i]
        for c in range(candidate.shape[1]):
            other = candidate[row, c]
            out[row, c] = table[other] if 0 <= other < len(table) else 0.0
        for i in range(lengths[node]):
            key = keys[node, i]
            table[ends[key >> 1, key & 1]] = 0.0


@njit(cache=True, nogil=True)
def _stream(ends, first, alpha, beta, candidate, lists, versions, table, out):  # type: ignore[no-untyped-def]
    for row in range(len(candidate)):
        at = first + row
        _score(ends, ends[at : at + 1, 0], candidate[row : row + 1], lists, table, out[row : row + 1])
        _advance(ends[at : at + 1], at, alpha, beta, False, lists, versions)  # noqa: FBT003 - jitted
