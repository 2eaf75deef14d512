"""From pairs to entities: matching pairs where rows are unique, connected components, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.prepare.link.model import Unique
from stepwell.prepare.link.text import Floats


def chosen(rows: tuple[Ids, Ids], probability: Floats, threshold: float, unique: Unique = "neither") -> Ids:
    """Return the positions of the pairs that are matches, ascending.

    A pair needs the threshold; where rows are unique, pairs are taken from the most probable on, and one whose row is
    taken already is left out. Above one half that never happens to marginals of a matching.

    Raises:
        InvalidValueError: If the threshold is outside [0, 1].

    Cost: O(P log P).
    """
    if not 0 <= threshold <= 1:
        raise InvalidValueError("threshold", threshold, "in [0, 1]")
    order = np.argsort(-probability, kind="stable")
    order = order[probability[order] >= threshold]
    keep = np.zeros(len(probability), np.bool_)
    taken: list[set[int]] = [set(), set()]
    sides = [side for side, name in enumerate(("left", "right")) if unique in ("both", name)]
    for pair in order.tolist():
        if any(int(rows[side][pair]) in taken[side] for side in sides):
            continue
        keep[pair] = True
        for side in sides:
            taken[side].add(int(rows[side][pair]))
    return np.flatnonzero(keep)


def components(first: Ids, second: Ids, num_rows: int) -> Ids:
    """Return the entity of each row: the smallest row that it is connected with through pairs.

    Args:
        first: One row of each pair, in [0, num_rows).
        second: The other.
        num_rows: How many rows there are.

    Raises:
        InvalidValueError: If a row is out of range.

    Cost: O(rows + pairs), nearly; union-find.
    """
    first, second = np.ascontiguousarray(first, np.int64), np.ascontiguousarray(second, np.int64)
    for side in (first, second):
        if len(side) and (side.min() < 0 or side.max() >= num_rows):
            raise InvalidValueError("pairs", (int(side.min()), int(side.max())), f"rows in [0, {num_rows})")
    return np.asarray(_components(first, second, num_rows))


def components_reference(first: Ids, second: Ids, num_rows: int) -> Ids:
    """State what `components` must compute: pass the smallest row on until nothing changes."""
    entity = np.arange(num_rows)
    while True:
        before = entity.copy()
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            entity[a] = entity[b] = min(entity[a], entity[b])
        if (before == entity).all():
            return entity


@dataclass(frozen=True)
class Quality:
    """How found pairs stand to the true ones.

    Args:
        precision: Share of found pairs that are true; 1 if none is found.
        recall: Share of true pairs that are found; 1 if there is none.
        f1: Harmonic mean of both.
    """

    precision: float
    recall: float
    f1: float


def quality(found: tuple[Ids, Ids], true: tuple[Ids, Ids]) -> Quality:
    """Compare two sets of pairs; repetitions count once."""
    pairs, truth = set(_pairs(found)), set(_pairs(true))
    hits = len(pairs & truth)
    f1 = 2 * hits / (len(pairs) + len(truth)) if pairs or truth else 1.0
    return Quality(hits / len(pairs) if pairs else 1.0, hits / len(truth) if truth else 1.0, f1)


def _pairs(rows: tuple[Ids, Ids]) -> zip[tuple[int, int]]:
    return zip(rows[0].tolist(), rows[1].tolist(), strict=True)


def pairs_within(entity: Ids) -> tuple[Ids, Ids]:
    """Return every pair of rows of one entity, the smaller row first.

    Cost: O(pairs).
    """
    order = np.argsort(entity, kind="stable")
    _, begin, counts = np.unique(entity[order], return_index=True, return_counts=True)
    later = np.repeat(begin + counts, counts) - np.arange(len(order)) - 1
    first = np.repeat(np.arange(len(order)), later)
    within = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    second = order[first + 1 + within]
    first = order[first]
    return np.minimum(first, second), np.maximum(first, second)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True)
def _components(first, second, num_rows):  # type: ignore[no-untyped-def]
    parent = np.arange(num_rows)
    for p in range(len(first)):
        a, b = _root(parent, first[p]), _root(parent, second[p])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for row in range(num_rows):
        parent[row] = parent[parent[row]] if parent[row] < row else row
    return parent


@numba.njit(cache=True, nogil=True)
def _root(parent, row):  # type: ignore[no-untyped-def]
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row
