"""Distinct keys in one pass: an open-addressing hash table instead of a sort.

The table has at least twice as many places as keys, so a look-up probes about 1.5 places on average; each place
holds the row of a distinct key in the result, which keeps the result in order of first appearance.
"""

from __future__ import annotations

import numba
import numpy as np

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError


def unique_inverse(keys: Ids) -> tuple[Ids, Ids]:
    """Return the distinct keys in order of first appearance, and where each key stands among them.

    Args:
        keys: Any int64 values, `[S]`.

    Returns:
        `unique` int64 `[U]` and `inverse` int64 `[S]` with `unique[inverse] == keys`.

    Cost:
        O(S) on average; a table of at most 4 S int64 beside the result.
    """
    keys = np.ascontiguousarray(keys, np.int64)
    inverse = np.empty(len(keys), np.int64)
    rows = np.empty(len(keys), np.int64)
    count = _unique(keys, _table(len(keys)), rows, inverse)
    return keys[rows[:count]], inverse


def unique_pairs(a: Ids, b: Ids) -> tuple[Ids, Ids, Ids]:
    """Return the distinct pairs `(a, b)` in order of first appearance, and where each pair stands among them.

    Args:
        a: First halves, any int64 values, `[S]`.
        b: Second halves, int64 `[S]`.

    Returns:
        `a` and `b` of the distinct pairs, int64 `[U]` each, and `inverse` int64 `[S]`.

    Raises:
        InvalidValueError: If the lengths differ.

    Cost:
        O(S) on average; a table of at most 4 S int64 beside the result.
    """
    a, b = np.ascontiguousarray(a, np.int64), np.ascontiguousarray(b, np.int64)
    if len(a) != len(b):
        raise InvalidValueError("a and b", (len(a), len(b)), "of one length")
    inverse = np.empty(len(a), np.int64)
    rows = np.empty(len(a), np.int64)
    count = _unique_pairs(a, b, _table(len(a)), rows, inverse)
    rows = rows[:count]
    return a[rows], b[rows], inverse


def _table(size: int) -> Ids:
    return np.full(1 << max(3, (2 * size - 1).bit_length()), -1, np.int64)


# Below this line stands Numba code; `rows` receives the row of each distinct key's first appearance.
# ruff: noqa: ANN001, ANN202


@numba.njit(inline="always")
def _mix(key):  # type: ignore[no-untyped-def]
    """Spread a key over 64 bits (the finalizer of MurmurHash3)."""
    bits = np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return bits ^ (bits >> np.uint64(33))


@numba.njit(cache=True, nogil=True)
def _unique(keys, table, rows, inverse):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    count = 0
    for i in range(len(keys)):
        place = _mix(keys[i]) & mask
        while table[place] >= 0 and keys[rows[table[place]]] != keys[i]:
            place = (place + np.uint64(1)) & mask
        if table[place] < 0:
            table[place], rows[count] = count, i
            count += 1
        inverse[i] = table[place]
    return count


@numba.njit(cache=True, nogil=True)
def _unique_pairs(a, b, table, rows, inverse):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    count = 0
    for i in range(len(a)):
        place = _mix(_mix(a[i]) ^ np.uint64(b[i])) & mask
        while table[place] >= 0:
            known = rows[table[place]]
            if a[known] == a[i] and b[known] == b[i]:
                break
            place = (place + np.uint64(1)) & mask
        if table[place] < 0:
            table[place], rows[count] = count, i
            count += 1
        inverse[i] = table[place]
    return count
