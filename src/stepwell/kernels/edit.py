"""How many letters differ between two texts."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Letters = npt.NDArray[np.uint32]


def letters(text: str) -> Letters:
    """Return a text's code points."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def edit_distance_reference(a: str, b: str) -> int:
    """State what `edit_distance` must compute: insertions, deletions and replacements from one text to the other."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
        rows.append(row)
    return rows[-1][-1]


# Below this line stands Numba code.
# ruff: noqa: ANN001


@numba.njit(cache=True, nogil=True)
def edit_distance(a, b, most) -> int:  # type: ignore[no-untyped-def]
    """Return the Levenshtein distance of two arrays of letters, or `most + 1` if it is larger. For Numba code.

    Args:
        a: Letters as integers, `[A]`.
        b: Letters as integers, `[B]`.
        most: Largest distance of interest; rows that exceed it throughout end the search.

    Cost: O(A B) at worst; allocates one row.
    """
    if abs(len(a) - len(b)) > most:
        return most + 1
    row = np.arange(len(b) + 1)
    for i in range(len(a)):
        before, row[0] = row[0], i + 1
        least = row[0]
        for j in range(len(b)):
            here = min(row[j + 1] + 1, row[j] + 1, before + (a[i] != b[j]))
            before, row[j + 1] = row[j + 1], here
            least = min(least, here)
        if least > most:
            return most + 1
    return min(row[len(b)], most + 1)
