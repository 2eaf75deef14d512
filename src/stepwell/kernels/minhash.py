"""MinHash signatures of sets: the share of equal places estimates the Jaccard similarity of two sets.

References:
    Broder, "On the resemblance and containment of documents", 1997.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids

Words = npt.NDArray[np.uint64]


def signatures(elements: Words, indptr: Ids, seeds: Words) -> Words:
    """Return the least hash of each set under each seed, `[N, H]`; all ones for an empty set.

    Args:
        elements: Hashes of the sets' elements, one set after the other.
        indptr: Where each set begins, `[N + 1]`.
        seeds: One for each hash function, `[H]`.

    Cost: O(elements H), sets in parallel.
    """
    out = np.full((len(indptr) - 1, len(seeds)), np.uint64(0xFFFFFFFFFFFFFFFF))
    _signatures(elements, indptr, seeds, out)
    return out


def signatures_reference(elements: Words, indptr: Ids, seeds: Words) -> Words:
    """State, one set at a time, what `signatures` must compute."""
    out = np.full((len(indptr) - 1, len(seeds)), np.uint64(0xFFFFFFFFFFFFFFFF))
    for i in range(len(indptr) - 1):
        for j, seed in enumerate(seeds.tolist()):
            for element in elements[indptr[i] : indptr[i + 1]].tolist():
                bits = element ^ seed
                bits = ((bits ^ (bits >> 33)) * 0xFF51AFD7ED558CCD) % 2**64
                bits = ((bits ^ (bits >> 33)) * 0xC4CEB9FE1A85EC53) % 2**64
                out[i, j] = min(int(out[i, j]), bits ^ (bits >> 33))
    return out


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True, parallel=True)
def _signatures(elements, indptr, seeds, out):  # type: ignore[no-untyped-def]
    for i in numba.prange(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            for j in range(len(seeds)):
                bits = elements[k] ^ seeds[j]
                bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
                bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
                bits = bits ^ (bits >> np.uint64(33))
                out[i, j] = min(out[i, j], bits)
