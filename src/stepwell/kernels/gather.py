"""Rows of a table by number: copied as bytes, so every dtype takes the same road."""

from __future__ import annotations

import math
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.threads import launch

Scalar = TypeVar("Scalar", bound=np.generic)
Places = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def gather_rows(table: npt.NDArray[Scalar], rows: Ids, out: npt.NDArray[Scalar] | None = None) -> npt.NDArray[Scalar]:
    """Return `table[rows]`, with zeros where a row is -1.

    Args:
        table: Any fixed-size dtype, `[N, ...]`, C-ordered (else it is copied first); may be a memory map.
        rows: Rows to copy, int64 `[S]`, in `[-1, N)`; repeats are fine.
        out: Array to write instead of a new one, `[S, ...]`, C-ordered, of the table's dtype.

    Returns:
        The rows, `[S, ...]`.

    Raises:
        InvalidValueError: If a row lies outside `[-1, N)`, or `out` has another shape, dtype or order.

    Cost:
        O(S row bytes); allocates only the result.
    """
    table, rows = np.ascontiguousarray(table), np.ascontiguousarray(rows, np.int64)
    shape = (len(rows), *table.shape[1:])
    if out is None:
        out = np.empty(shape, table.dtype)
    elif out.shape != shape or out.dtype != table.dtype or not out.flags.c_contiguous:
        raise InvalidValueError("out", (out.shape, out.dtype), f"C-ordered, {shape} of {table.dtype}")
    if table.dtype.hasobject:
        raise InvalidValueError("table", table.dtype, "of a fixed-size dtype")
    if len(rows) and (rows.min() < -1 or rows.max() >= len(table)):
        raise InvalidValueError("rows", (int(rows.min()), int(rows.max())), f"in [-1, {len(table)})")
    size = math.prod(table.shape[1:]) * table.dtype.itemsize
    if size and len(rows):
        source, target = _words(table, size), _words(out, size)
        launch(len(rows), target.size, _gather, _gather_parallel, source, rows, target)
    return out


def copy_rows(table: npt.NDArray[Scalar], rows: Places, out: npt.NDArray[Scalar], places: Places) -> None:
    """Copy rows of one array to rows of another: `out[places] = table[rows]`, without an array between.

    Args:
        table: Any fixed-size dtype, `[N, ...]`, C-ordered.
        rows: Rows to copy, int32 or int64 `[S]`, in `[0, N)`.
        out: C-ordered `[M, ...]`, of the table's dtype and row shape.
        places: Where each goes, int32 or int64 `[S]`, in `[0, M)`, distinct.

    Raises:
        InvalidValueError: If arrays do not fit each other.

    Cost:
        O(S row bytes); allocates nothing. Rows are not tested: callers have them from their own tables.
    """
    if out.shape[1:] != table.shape[1:] or out.dtype != table.dtype or len(rows) != len(places):
        raise InvalidValueError("out", (out.shape, out.dtype), f"rows {table.shape[1:]} of {table.dtype}")
    size = math.prod(table.shape[1:]) * table.dtype.itemsize
    if size and len(rows):
        _copy(_words(table, size), np.asarray(rows, np.int64), _words(out, size), np.asarray(places, np.int64))


def _words(array: npt.NDArray[np.generic], row_bytes: int) -> npt.NDArray[np.unsignedinteger]:
    """View rows as the widest words that divide them."""
    width = next(width for width in (8, 4, 2, 1) if row_bytes % width == 0)
    return np.asarray(array).reshape(-1).view(np.uint8).view(f"u{width}").reshape(len(array), row_bytes // width)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN002, ANN202


@numba.njit(cache=True, nogil=True)
def _gather(first, last, source, rows, target):  # type: ignore[no-untyped-def]
    width = target.shape[1]
    for i in range(first, last):
        row = rows[i]
        if row < 0:
            for j in range(width):
                target[i, j] = 0
        else:
            for j in range(width):
                target[i, j] = source[row, j]


@numba.njit(cache=True, nogil=True, parallel=True)
def _gather_parallel(threads, rows, *args):  # type: ignore[no-untyped-def]
    for part in numba.prange(threads):
        _gather(part * rows // threads, (part + 1) * rows // threads, *args)


@numba.njit(cache=True, nogil=True)
def _copy(source, rows, target, places):  # type: ignore[no-untyped-def]
    width = target.shape[1]
    for i in range(len(rows)):
        row, place = rows[i], places[i]
        for j in range(width):
            target[place, j] = source[row, j]
