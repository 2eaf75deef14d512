"""Predict each cell of a table from the other cells of its row, by how often values go together.

A value `v` of the target column is scored `log p(v) + sum over other columns A of log p(v | a) - log p(v)`, with every
count taken without the row itself. A column that says nothing about the target has `p(v | a) = p(v)` and adds nothing;
a cell that was mistyped has no companions in other rows and adds nothing either.

References:
    Rekatsinas et al., "HoloClean: Holistic Data Repairs with Probabilistic Inference", PVLDB 2017 (co-occurrence
    features). Differs: no factor graph and no learnt weights, the conditionals are used as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids

_WEIGHT = 1.0  # rows that the column's own distribution counts for in `p(v | a)`


@dataclass(frozen=True)
class Predicted:
    """What the rest of each row says about its cell of one column.

    Args:
        value: The best value's code, `[N]`; the cell's own where nothing is known of it.
        margin: Its log score above the best other candidate's, `[N]`. One candidate is a value that no other row has,
            so a lone value without support has the margin 0.
        above_own: Its log score above that of the cell's own value, `[N]`.
        support: How many other columns have it beside their value in at least half of their other rows, `[N]`.
    """

    value: Ids
    margin: npt.NDArray[np.float64]
    above_own: npt.NDArray[np.float64]
    support: Ids


def predict_column(codes: Ids, target: int) -> Predicted:
    """Predict one column from all others.

    Args:
        codes: A table's values as codes from 0 in each column, `[N, C]`.
        target: The column.

    Cost:
        O(N C^2 log V) for V values that go with one value of another column.
    """
    num_rows, num_columns = codes.shape
    counts = np.bincount(codes[:, target])
    groups = [_group(codes[:, a], codes[:, target]) for a in range(num_columns) if a != target]
    others = np.ascontiguousarray(codes[:, [a for a in range(num_columns) if a != target]])
    starts = np.cumsum([0, *(len(indptr) for indptr, *_ in groups[:-1])]).astype(np.int64)
    bases = np.cumsum([0, *(len(values) for _, values, *_ in groups[:-1])]).astype(np.int64)
    indptr = np.concatenate([some + base for (some, *_), base in zip(groups, bases, strict=True)])
    values, together, best = (np.concatenate([group[i] for group in groups]) for i in (1, 2, 3))
    sums = np.concatenate([[0], np.cumsum(together)])
    out = Predicted(np.empty(num_rows, np.int64), np.empty(num_rows), np.empty(num_rows), np.empty(num_rows, np.int64))
    own = np.ascontiguousarray(codes[:, target])
    tables = (starts, indptr, values, together, sums, best)
    _predict(own, others, counts, tables, out.value, out.margin, out.above_own, out.support)
    return out


def _group(a: Ids, b: Ids) -> tuple[Ids, Ids, Ids, Ids]:
    """Return, for each value of `a`, the values of `b` beside it (sorted), their counts, and its two most frequent."""
    width = int(b.max()) + 1
    pairs, together = np.unique(a * width + b, return_counts=True)
    keys, values = pairs // width, pairs % width
    indptr = np.searchsorted(keys, np.arange(int(a.max()) + 2)).astype(np.int64)
    order = np.lexsort((-together, keys))
    first = indptr[:-1]
    second = np.minimum(first + 1, np.maximum(indptr[1:] - 1, first))
    best = np.full((len(indptr), 2), -1, np.int64)
    filled = indptr[1:] > first
    best[:-1][filled, 0] = values[order[first[filled]]]
    best[:-1][filled, 1] = values[order[second[filled]]]
    return indptr, values.astype(np.int64), together.astype(np.int64), best


def predict_column_reference(codes: Ids, target: int) -> list[tuple[dict[int, float], int]]:
    """State, for each row, the candidates with their scores (-1: a value that no other row has) and its own value."""
    num_rows, num_columns = codes.shape
    out = []
    for i in range(num_rows):
        rest = np.arange(num_rows) != i
        others = [a for a in range(num_columns) if a != target]
        column = codes[rest, target]
        beside = {a: column[codes[rest, a] == codes[i, a]] for a in others}
        candidates = {int(codes[i, target])}
        for a in others:
            found, counts = np.unique(codes[codes[:, a] == codes[i, a], target], return_counts=True)
            top = sorted(zip(-counts, found, strict=True))[:2]
            left = [(int((beside[a] == v).sum()), int(v)) for _, v in top]
            chosen = max(left, key=lambda one: one[0])  # the first of equals
            candidates |= {chosen[1]} if chosen[0] else set()
        scores = {}
        distinct = int(codes[:, target].max()) + 1
        for v in (*candidates, -1):
            prior = ((column == v).sum() + 0.5) / (len(column) + 0.5 * distinct)
            terms = [np.log(((some == v).sum() / prior + _WEIGHT) / (len(some) + _WEIGHT)) for some in beside.values()]
            scores[v] = float(np.log(prior) + sum(terms))
        out.append((scores, int(codes[i, target])))
    return out


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True)
def _count(values, together, begin, end, value):  # type: ignore[no-untyped-def]
    while begin < end:
        middle = (begin + end) // 2
        if values[middle] < value:
            begin = middle + 1
        elif values[middle] > value:
            end = middle
        else:
            return together[middle]
    return 0


@numba.njit(cache=True, nogil=True)
def _score(value, mine, row, counts, num_rows, tables):  # type: ignore[no-untyped-def]
    """Return the log score of a value (-1: one that no other row has) beside the rest of a row."""
    starts, indptr, values, together, sums, _ = tables
    known = counts[value] - (value == mine) if value >= 0 else 0
    prior = (known + 0.5) / (num_rows - 1 + 0.5 * len(counts))
    score = np.log(prior)
    for a in range(len(row)):
        place = starts[a] + row[a]
        begin, end = indptr[place], indptr[place + 1]
        both = _count(values, together, begin, end, value) - (value == mine)
        score += np.log((both / prior + 1.0) / (sums[end] - sums[begin] - 1 + 1.0))
    return score


@numba.njit(cache=True, nogil=True)
def _predict(own, others, counts, tables, out, margin, above_own, support):  # type: ignore[no-untyped-def]
    starts, indptr, values, together, sums, best = tables
    num_rows, width = others.shape
    candidates, scores = np.empty(width + 1, np.int64), np.empty(width + 1)
    for i in range(num_rows):
        mine = own[i]
        candidates[0], num = mine, 1
        for a in range(width):
            place = starts[a] + others[i, a]
            begin, end = indptr[place], indptr[place + 1]
            first, second = best[place, 0], best[place, 1]
            ones = _count(values, together, begin, end, first) - (first == mine)
            twos = _count(values, together, begin, end, second) - (second == mine)
            chosen, top = (first, ones) if ones >= twos else (second, twos)
            known = top < 1
            for j in range(num):
                known = known or candidates[j] == chosen
            if not known:
                candidates[num] = chosen
                num += 1
        for j in range(num):
            scores[j] = _score(candidates[j], mine, others[i], counts, num_rows, tables)
        top, second_best = 0, _score(-1, mine, others[i], counts, num_rows, tables)
        for j in range(1, num):
            if scores[j] > scores[top]:
                top = j
        for j in range(num):
            if j != top and scores[j] > second_best:
                second_best = scores[j]
        out[i] = candidates[top]
        margin[i] = scores[top] - second_best
        above_own[i] = scores[top] - scores[0]
        support[i] = 0
        for a in range(width):
            place = starts[a] + others[i, a]
            begin, end = indptr[place], indptr[place + 1]
            both = _count(values, together, begin, end, candidates[top]) - (candidates[top] == mine)
            support[i] += both > 0 and 2 * both >= sums[end] - sums[begin] - 1
