"""A hash table of directed pairs of nodes: open addressing, kept at most half full by whoever fills it.

Keys and values lie in arrays of the caller; here is only where a key belongs. A pair's key is `src << 32 | dst`.
"""

from __future__ import annotations

import numba
import numpy as np

from stepwell.core.batch import Ids

EMPTY = -1
"""The key of a free place."""
_MULTIPLIER = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed 64-bit integer (Fibonacci hashing)


def places_for(capacity: int) -> int:
    """Return how long a table must be: the least power of two that is at least `capacity`, and 1,024 at least."""
    return 1 << max(capacity - 1, 1023).bit_length()


@numba.njit(cache=True, nogil=True, inline="always")
def slot(table: Ids, key: int) -> np.int64:
    """Return where `key` is in the keys `table`, int64 `[T]`, T a power of two, or the free place where it belongs.

    For Numba code. Endless if the table is full and the key is not in it.

    Cost: a place or two while the table is at most half full.
    """
    mask = len(table) - 1
    mixed = np.int64(key) * np.int64(_MULTIPLIER)
    at = (mixed ^ (mixed >> 32)) & mask
    while table[at] != EMPTY and table[at] != key:
        at = (at + 1) & mask
    return at
