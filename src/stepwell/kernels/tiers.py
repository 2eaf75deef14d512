"""The bookkeeping of a tier: where rows are, which of a batch are missing, and slots that change hands.

The slot map says for each row of the family where it is, -1 if it is not here. While a batch is under way, a missing
row holds `-2 - place`, its place in the batch, so that no search is needed when it is admitted.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def probe(ids: np.ndarray, slot: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Look up a batch and mark it.

    Args:
        ids: Rows, int64 `[S]`.
        slot: The slot map, int32 `[N]`.
        seen: Slots that the batch has met, `[capacity]`; all False before.

    Returns:
        Slots, -1 where missing, int32 `[S]`; places of the missing rows, int64; whether a row repeats.
    """
    found, missed = np.empty(len(ids), np.int32), np.empty(len(ids), np.int64)
    misses, repeats = 0, False
    for place in range(len(ids)):
        at = slot[ids[place]]
        found[place] = max(at, -1)
        if at >= 0:
            repeats |= seen[at]
            seen[at] = True
        elif at == -1:
            slot[ids[place]] = -2 - place
            missed[misses] = place
            misses += 1
        else:
            repeats = True
    return found, missed[:misses], repeats


@njit(cache=True, nogil=True)
def unmark(ids: np.ndarray, slot: np.ndarray, seen: np.ndarray) -> None:
    """Take the marks of `probe` away."""
    for row in ids:
        if slot[row] >= 0:
            seen[slot[row]] = False
        else:
            slot[row] = -1


@njit(cache=True, nogil=True)
def apply_moves(
    evict: np.ndarray,
    admit: np.ndarray,
    slot: np.ndarray,
    dirty: np.ndarray,
    seen: np.ndarray,
    owner: np.ndarray,
    free: np.ndarray,
    num_free: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Free the slots of those who leave and give slots to those who enter, within a marked batch.

    Returns:
        The slots of the admitted rows, int32; their places in the batch, int64.
    """
    for row in evict:
        at = slot[row]
        slot[row] = -1
        dirty[at], seen[at], owner[at] = False, False, -1
        free[num_free[0]] = at
        num_free[0] += 1
    slots, places = np.empty(len(admit), np.int32), np.empty(len(admit), np.int64)
    for i in range(len(admit)):
        if slot[admit[i]] > -2 or num_free[0] == 0:
            raise ValueError("A replacement admitted a row that the batch did not miss, or more than fit.")
        num_free[0] -= 1
        at = free[num_free[0]]
        places[i], slots[i] = -2 - slot[admit[i]], at
        slot[admit[i]] = at
        owner[at] = admit[i]
    return slots, places
