"""Byte strings of varying length by row number: the gather of a ragged column."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.threads import launch


def gather_spans(offset: Ids, data: npt.NDArray[np.uint8], rows: Ids) -> tuple[Ids, npt.NDArray[np.uint8]]:
    """Return the byte strings of some rows, end to end.

    Args:
        offset: Where each string begins and, last, where all end, int64 `[N + 1]`; may be a memory map.
        data: All bytes, uint8; may be a memory map.
        rows: Rows to copy, int64 `[B]`, in `[0, N)`; repeats are fine.

    Returns:
        The new offsets `[B + 1]` and bytes.

    Raises:
        InvalidValueError: If a row lies outside `[0, N)`.

    Cost:
        O(bytes returned), in parallel.
    """
    if len(rows) and (rows.min() < 0 or rows.max() >= len(offset) - 1):
        raise InvalidValueError("rows", (int(rows.min()), int(rows.max())), f"in [0, {len(offset) - 1})")
    begin = np.asarray(offset[rows])
    found = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(offset[rows + 1] - begin, out=found[1:])
    out = np.empty(int(found[-1]), np.uint8)
    launch(len(rows), len(out) // 8, _copy, _copy_parallel, np.asarray(data), begin, found, out)
    return found, out


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN002, ANN202


@numba.njit(cache=True, nogil=True)
def _copy(first, last, data, begin, offset, out):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        start, cut = begin[i], offset[i]
        for j in range(offset[i + 1] - cut):
            out[cut + j] = data[start + j]


@numba.njit(cache=True, nogil=True, parallel=True)
def _copy_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _copy(part * rows // threads, (part + 1) * rows // threads, *args)
