"""Facility location: which few rows stand for all, so that every row has a representative near it.

`F(S) = sum_i w_i (far - min_{j in S} d(i, j))` is monotone and submodular, so greedy is within `1 - 1/e` of the best.
Rows of different groups never stand for each other, so distances are kept group by group, back to back in one flat
array, and a pick changes the gains of its own group only.

Symbols beside the usual ones: `N` rows ordered by group, `G` groups, `M` picks, `D` width of a row.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.kernels.threads import launch

Float32 = npt.NDArray[np.float32]
CLOSE = 1e-3
"""Below this share of the squared lengths, a squared distance from a product has lost its digits and is recomputed."""


class Cover(NamedTuple):
    """What a greedy search found.

    Args:
        picks: Rows in the order in which they were picked, int64 `[M]`.
        gains: Gain of each at its time, float64 `[M]`; never rises.
        nearest: Distance of each row to its nearest pick, float32 `[N]`.
        evaluations: How many gains were computed.
    """

    picks: Ids
    gains: npt.NDArray[np.float64]
    nearest: Float32
    evaluations: int


def distances(a: Float32, b: Float32, out: Float32 | None = None) -> Float32:
    """Return Euclidean distances `[A, B]`, exact where rows almost coincide.

    One matrix product gives `|a|^2 + |b|^2 - 2ab`; where the difference has lost its digits it is taken anew, row by
    row. Equal rows have distance exactly 0.

    Args:
        a: float32 `[A, D]`.
        b: float32 `[B, D]`.
        out: C-ordered float32 `[A, B]` to fill in instead of a new array.

    Cost:
        `2 A B D` operations in one product; no temporary beside the result.
    """
    a, b = np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)
    centre = b.mean(0) if len(b) else np.zeros(b.shape[1], np.float32)
    one = a - centre
    other = one if a is b else b - centre
    found = np.empty((len(a), len(b)), np.float32) if out is None else out
    np.matmul(one, other.T, out=found)
    squares = [np.einsum("nd,nd->n", part, part, dtype=np.float64).astype(np.float32) for part in (one, other)]
    launch(len(a), found.size, _root, _root_parallel, found, *squares, a, b)
    return found


def distances_reference(a: Float32, b: Float32) -> npt.NDArray[np.float64]:
    """State in float64, pair by pair, what `distances` must compute."""
    pairs = a[:, None].astype(np.float64) - b[None].astype(np.float64)
    return np.asarray(np.sqrt((pairs**2).sum(-1)))


def greedy_cover(
    flat: Float32,
    border: Ids,
    weight: npt.NDArray[np.float64],
    budget: int,
    nearest: Float32,
    *,
    lazy: bool = True,
    every_group: bool = True,
) -> Cover:
    """Pick the rows that bring all others nearest to a pick of their group, the best next one each time.

    Guarantee: with and without `lazy` the same picks, up to rows whose gains differ by rounding alone. Ties go to the
    smaller row. The search ends early once no row is further than rounding from a pick. With `every_group` and a budget
    for it, each group's best first row is picked before any second one: greedy for an endless cost of an empty group.

    Args:
        flat: Distances of each group, C-ordered `[n_g, n_g]`, back to back.
        border: Rows of group g are `[border[g], border[g + 1])`, int64 `[G + 1]`.
        weight: How often each row counts, `[N]`.
        budget: Picks at most.
        nearest: Distance of each row to what stands for it already, float32 `[N]`, at least the largest distance if
            nothing does; updated in place.
        lazy: Recompute a gain only when its old value, which bounds it, is the largest.
        every_group: Whether each group gets a pick before others get two.

    Cost:
        Each gain is one pass over the rows of its group; `lazy` computes N and then usually a few a pick, the naive
        search N a pick.

    References:
        Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978.
    """
    size = int(border[-1])
    gains, offset, owner = np.empty(size, np.float64), _offsets(border), _owner(border)
    launch(size, flat.size, _gains, _gains_parallel, flat, offset, border, owner, weight, nearest, gains)
    spans = [slice(begin, end) for begin, end in pairwise(border) if end > begin]
    first = np.array([span.start + int(np.argmax(gains[span])) for span in spans], np.int64)
    first = first[np.argsort(-gains[first], kind="stable")] if every_group and len(first) <= budget else first[:0]
    least = 1e-6 * float(flat.max(initial=0.0))
    search = _lazy if lazy else _naive
    found = search(flat, offset, border, owner, weight, nearest, gains, min(budget, size), least, first)
    return Cover(found[0], found[1], nearest, int(found[2]))


def greedy_cover_reference(
    block: npt.NDArray[np.float64], weight: npt.NDArray[np.float64], budget: int, far: float
) -> list[int]:
    """State, one group and one candidate at a time, which rows `greedy_cover` must pick."""
    nearest, picks = np.full(len(block), far), list[int]()
    for _ in range(min(budget, len(block))):
        gains = [float((weight * np.maximum(0.0, nearest - block[row])).sum()) for row in range(len(block))]
        best = int(np.argmax(gains))
        if gains[best] <= 1e-6 * block.max(initial=0.0):
            break
        picks.append(best)
        nearest = np.minimum(nearest, block[best])
    return picks


def assign(flat: Float32, border: Ids, picks: Ids) -> tuple[Ids, Float32]:
    """Return each row's nearest pick of its group and the distance; a pick stands for itself, ties go to the smaller.

    Args:
        flat: Distances as for `greedy_cover`.
        border: Groups as for `greedy_cover`.
        picks: The picks, in any order.

    Returns:
        The pick of each row, int64 `[N]`, -1 where the group has none; its distance, infinite there.

    Cost:
        One pass over the picks of its group a row.
    """
    owner, near = np.full(int(border[-1]), -1, np.int64), np.full(int(border[-1]), np.inf, np.float32)
    _assign(flat, _offsets(border), border, _owner(border), np.sort(picks), owner, near)
    return owner, near


def nearest_pick(z: Float32, group: Ids, picks: Ids, chunk: int = 4096) -> tuple[Ids, Float32]:
    """Return what `assign` returns, from the rows instead of their distances: for sets whose square has no room.

    Args:
        z: Rows `[N, D]`.
        group: Group of each, int64 `[N]`.
        picks: Rows of `z`.
        chunk: Rows whose distances are held at a time.

    Cost:
        `2 n_g m_g D` operations a group with `n_g` rows and `m_g` picks; `chunk m_g` floats of memory.
    """
    owner, near = np.full(len(z), -1, np.int64), np.full(len(z), np.inf, np.float32)
    picks = np.sort(picks)
    for own in np.unique(group[picks]):
        rows, mine = np.flatnonzero(group == own), picks[group[picks] == own]
        for begin in range(0, len(rows), chunk):
            part = rows[begin : begin + chunk]
            block = distances(z[part], z[mine])
            best = block.argmin(1)  # the first of equals: the smaller pick
            owner[part], near[part] = mine[best], block[np.arange(len(part)), best]
    owner[picks], near[picks] = picks, 0.0
    return owner, near


def _offsets(border: Ids) -> Ids:
    """Where each group's block begins in the flat array."""
    return np.concatenate([[0], np.cumsum(np.diff(border) ** 2)]).astype(np.int64)


def _owner(border: Ids) -> Ids:
    return np.repeat(np.arange(len(border) - 1), np.diff(border)).astype(np.int64)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True)
def _root(first, last, found, square_a, square_b, a, b):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        length = square_a[i]
        for j in range(found.shape[1]):
            both = length + square_b[j]
            found[i, j] = both - np.float32(2.0) * found[i, j]
        for j in range(found.shape[1]):
            if found[i, j] < np.float32(CLOSE) * (length + square_b[j]):
                total = 0.0
                for d in range(a.shape[1]):
                    gap = np.float64(a[i, d]) - np.float64(b[j, d])
                    total += gap * gap
                found[i, j] = total
        for j in range(found.shape[1]):
            found[i, j] = np.sqrt(found[i, j])


@numba.njit(cache=True, nogil=True, parallel=True)
def _root_parallel(threads, rows, found, square_a, square_b, a, b):  # type: ignore[no-untyped-def]
    for t in numba.prange(threads):
        _root(rows * t // threads, rows * (t + 1) // threads, found, square_a, square_b, a, b)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})
def _gain(row, weight, nearest):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(row)):
        total += weight[i] * np.float64(max(nearest[i] - row[i], np.float32(0.0)))
    return total


@numba.njit(cache=True, nogil=True)
def _row(flat, offset, border, g, row):  # type: ignore[no-untyped-def]
    size = border[g + 1] - border[g]
    begin = offset[g] + (row - border[g]) * size
    return flat[begin : begin + size]


@numba.njit(cache=True, nogil=True)
def _gains(first, last, flat, offset, border, owner, weight, nearest, gains):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        g = owner[row]
        begin, end = border[g], border[g + 1]
        gains[row] = _gain(_row(flat, offset, border, g, row), weight[begin:end], nearest[begin:end])


@numba.njit(cache=True, nogil=True, parallel=True)
def _gains_parallel(threads, rows, flat, offset, border, owner, weight, nearest, gains):  # type: ignore[no-untyped-def]
    for t in numba.prange(threads):
        _gains(
            rows * t // threads,
            rows * (t + 1) // threads,
            flat,
            offset,
            border,
            owner,
            weight,
            nearest,
            gains,
        )


@numba.njit(cache=True, nogil=True)
def _take(flat, offset, border, g, row, nearest):  # type: ignore[no-untyped-def]
    distance, begin = _row(flat, offset, border, g, row), border[g]
    for i in range(len(distance)):
        nearest[begin + i] = min(nearest[begin + i], distance[i])


@numba.njit(cache=True, nogil=True)
def _naive(flat, offset, border, owner, weight, nearest, gains, budget, least, first):  # type: ignore[no-untyped-def]
    size = len(nearest)
    picks, found, evaluations = np.empty(budget, np.int64), np.empty(budget, np.float64), size
    for turn in range(budget):
        if turn:
            _gains(0, size, flat, offset, border, owner, weight, nearest, gains)
            evaluations += size
        best = first[turn] if turn < len(first) else np.argmax(gains)
        if turn >= len(first) and gains[best] <= least:
            return picks[:turn], found[:turn], evaluations
        picks[turn], found[turn] = best, gains[best]
        _take(flat, offset, border, owner[best], best, nearest)
    return picks, found, evaluations


@numba.njit(cache=True, nogil=True)
def _sink(heap, bound, place, end):  # type: ignore[no-untyped-def]
    item = heap[place]
    while True:
        child = 2 * place + 1
        if child >= end:
            break
        if child + 1 < end:
            a, b = heap[child], heap[child + 1]
            if bound[b] > bound[a] or (bound[b] == bound[a] and b < a):
                child += 1
        other = heap[child]
        if bound[other] < bound[item] or (bound[other] == bound[item] and other > item):
            break
        heap[place] = other
        place = child
    heap[place] = item


@numba.njit(cache=True, nogil=True)
def _lazy(flat, offset, border, owner, weight, nearest, gains, budget, least, first):  # type: ignore[no-untyped-def]
    size = len(nearest)
    picks, found, evaluations = np.empty(budget, np.int64), np.empty(budget, np.float64), size
    changed = np.zeros(len(border) - 1, np.int64)  # picks of each group so far: a gain is stale after the next one
    seen = np.zeros(size, np.int64)
    for turn in range(len(first)):
        row = first[turn]
        picks[turn], found[turn] = row, gains[row]
        _take(flat, offset, border, owner[row], row, nearest)
        changed[owner[row]] += 1
    heap = np.arange(size)
    for place in range(size // 2 - 1, -1, -1):
        _sink(heap, gains, place, size)
    for turn in range(len(first), budget):
        while True:
            top = heap[0]
            g = owner[top]
            if seen[top] == changed[g]:
                break
            begin, end = border[g], border[g + 1]
            gains[top] = _gain(_row(flat, offset, border, g, top), weight[begin:end], nearest[begin:end])
            seen[top] = changed[g]
            evaluations += 1
            _sink(heap, gains, 0, size)
        if gains[top] <= least:
            return picks[:turn], found[:turn], evaluations
        picks[turn], found[turn] = top, gains[top]
        _take(flat, offset, border, g, top, nearest)
        changed[g] += 1
    return picks, found, evaluations


@numba.njit(cache=True, nogil=True)
def _assign(flat, offset, border, owner, picks, found, near):  # type: ignore[no-untyped-def]
    for pick in picks:
        g = owner[pick]
        distance, begin = _row(flat, offset, border, g, pick), border[g]
        for i in range(len(distance)):
            if distance[i] < near[begin + i]:
                near[begin + i], found[begin + i] = distance[i], pick
    for pick in picks:
        found[pick], near[pick] = pick, np.float32(0.0)
