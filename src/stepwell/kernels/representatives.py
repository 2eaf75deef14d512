"""Representatives by simpler rules than coverage: the farthest row, what mends the mean, the first within reach.

Symbols beside the usual ones: `N` rows, `D` width of a row, `M` picks.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids

Float32 = npt.NDArray[np.float32]


def farthest_first(z: Float32, budget: int, nearest: Float32) -> tuple[Ids, Float32]:
    """Pick the row farthest from all picks, again and again: at most twice the best largest distance.

    Args:
        z: Rows `[N, D]`.
        budget: Picks at most; ends early when every row coincides with a pick.
        nearest: Distance of each row to what is covered already, infinite if there is nothing; changed in place.

    Returns:
        The picks in order; `nearest` after them.

    Cost:
        `N D` operations a pick.

    References:
        Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    picks = np.empty(min(budget, len(z)), np.int64)
    count = _farthest(np.ascontiguousarray(z, np.float32), nearest, picks)
    return picks[:count], nearest


def match_mean(z: npt.NDArray[np.float64], budget: int) -> Ids:
    """Pick rows whose running mean follows the mean of all: herding.

    Cost:
        `N D` operations a pick.

    References:
        Welling, "Herding dynamical weights to learn", ICML 2009; Rebuffi et al., "iCaRL", CVPR 2017.
    """
    picks = np.empty(min(budget, len(z)), np.int64)
    _herd(np.ascontiguousarray(z, np.float64), z.mean(0), picks)
    return picks


def leaders(z: Float32, group: Ids, radius: float) -> Ids:
    """Return, in order, the rows with no earlier kept row of their group within `radius`.

    Guarantee: every row lies within `radius` of a kept one, and kept rows of a group are further apart than that.

    Cost:
        `D` operations for each pair of a row and a kept row before it, at worst.
    """
    kept = np.empty(len(z), np.int64)
    return kept[: _leaders(np.ascontiguousarray(z, np.float32), group, np.float64(radius) ** 2, kept)]


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})
def _square(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(len(a)):
        gap = np.float64(a[d]) - np.float64(b[d])
        total += gap * gap
    return total


@numba.njit(cache=True, nogil=True)
def _farthest(z, nearest, picks):  # type: ignore[no-untyped-def]
    for turn in range(len(picks)):
        pick = np.argmax(nearest)
        if nearest[pick] <= 0.0:
            return turn
        picks[turn] = pick
        for i in range(len(z)):
            distance = np.float32(np.sqrt(_square(z[i], z[pick])))
            nearest[i] = min(nearest[i], distance)
    return len(picks)


@numba.njit(cache=True, nogil=True)
def _herd(z, mean, picks):  # type: ignore[no-untyped-def]
    total, taken = np.zeros(z.shape[1]), np.zeros(len(z), np.bool_)
    for turn in range(len(picks)):
        best, pick = np.inf, -1
        for i in range(len(z)):
            if not taken[i]:
                gap = 0.0
                for d in range(z.shape[1]):
                    off = mean[d] - (total[d] + z[i, d]) / (turn + 1)
                    gap += off * off
                if gap < best:
                    best, pick = gap, i
        taken[pick], picks[turn] = True, pick
        total += z[pick]


@numba.njit(cache=True, nogil=True)
def _leaders(z, group, square, kept):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(z)):
        near = False
        for k in range(count):
            if group[kept[k]] == group[i] and _square(z[i], z[kept[k]]) <= square:
                near = True
                break
        if not near:
            kept[count] = i
            count += 1
    return count
