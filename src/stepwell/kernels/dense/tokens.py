"""Text as token ids by hashing, straight from bytes."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.kernels.threads import launch


def hash_tokens(offset: Ids, data: npt.NDArray[np.uint8], size: int, length: int) -> Ids:
    """Return the ids of the first `length` tokens of each text, 0-padded.

    A token is a longest run of ASCII letters and digits and of bytes above 127 (other scripts), ASCII letters
    lower-cased; its id is `1 + FNV-1a(bytes) mod (size - 1)`.

    Args:
        offset: Where each text begins and, last, where all end, int64 `[B + 1]`.
        data: UTF-8 bytes.
        size: Ids, padding included, at least 2.
        length: Tokens a text, at least 1.

    Returns:
        int64 `[B, length]`.

    Cost:
        About a nanosecond a byte on one thread.

    References:
        Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
    """
    out = np.zeros((len(offset) - 1, length), np.int64)
    launch(len(out), len(data), _tokens, _tokens_parallel, offset, data, size, out)
    return out


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN002, ANN202


@numba.njit(cache=True, nogil=True)
def _tokens(first, last, offset, data, size, out):  # type: ignore[no-untyped-def]
    prime, basis = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
    for i in range(first, last):
        place, inside, value = 0, False, basis
        for j in range(offset[i], offset[i + 1] + 1):
            byte = np.uint64(32) if j == offset[i + 1] else np.uint64(data[j])
            if 65 <= byte <= 90:
                byte += np.uint64(32)
            if 97 <= byte <= 122 or 48 <= byte <= 57 or byte >= 128:
                value, inside = (value ^ byte) * prime, True
            elif inside:
                out[i, place] = 1 + np.int64(value % np.uint64(size - 1))
                place, inside, value = place + 1, False, basis
                if place == out.shape[1]:
                    break


@numba.njit(cache=True, nogil=True, parallel=True)
def _tokens_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _tokens(part * rows // threads, (part + 1) * rows // threads, *args)
