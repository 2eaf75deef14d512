"""T-PPR lists in compiled dictionaries: the usual way to write SANTA, as fast as we can make it.

One typed dictionary a node; a merge makes a new one, a selection over its values cuts it. No certificates.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.typed import Dict, List

# ruff: noqa: ANN001, ANN202


def keep_in_dictionaries(ends: np.ndarray, num_nodes: int, k: int, alpha: float, beta: float) -> object:
    """Return the lists of all nodes after all events, typed dictionaries from key to weight."""
    return _keep(ends, num_nodes, k, alpha, beta)


@njit(cache=True)
def _merged(mine, theirs, a, b, key, weight, k):  # type: ignore[no-untyped-def]
    merged = Dict.empty(types.int64, types.float64)
    for place, value in mine.items():
        merged[place] = a * value
    for place, value in theirs.items():
        merged[place] = merged.get(place, 0.0) + b * value
    merged[key] = weight
    if len(merged) <= k:
        return merged
    keys, values = np.empty(len(merged), np.int64), np.empty(len(merged))
    i = 0
    for place, value in merged.items():
        keys[i], values[i] = place, value
        i += 1
    cut = np.partition(values, len(values) - k)[len(values) - k]
    kept, room = Dict.empty(types.int64, types.float64), k
    for i in range(len(keys)):
        if values[i] > cut:
            kept[keys[i]] = values[i]
            room -= 1
    while room > 0:  # of equal weights at the border the newest stay
        newest = -1
        for i in range(len(keys)):
            if values[i] == cut and keys[i] not in kept and (newest < 0 or keys[i] > keys[newest]):
                newest = i
        kept[keys[newest]] = cut
        room -= 1
    return kept


@njit(cache=True)
def _keep(ends, num_nodes, k, alpha, beta):  # type: ignore[no-untyped-def]
    lists, norm = List(), np.zeros(num_nodes)
    for _ in range(num_nodes):
        lists.append(Dict.empty(types.int64, types.float64))
    for event in range(len(ends)):
        u, v = ends[event]
        a, b = norm[u] / (norm[u] + 1), (1 - alpha) / (norm[u] + 1)
        new_u = _merged(lists[u], lists[v], a, b, 2 * event + 1, b * alpha, k)
        if u != v:
            a, b = norm[v] / (norm[v] + 1), (1 - alpha) / (norm[v] + 1)
            lists[v] = _merged(lists[v], lists[u], a, b, 2 * event, b * alpha, k)
            norm[v] = norm[v] * beta + beta
        lists[u] = new_u
        norm[u] = norm[u] * beta + beta
    return lists
