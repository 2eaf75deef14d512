"""Rows of coded numbers: packed bits in, float32 out, gathered and decoded in one pass.

A column's code means a point of a line (`low + step * code`), a place in a table of levels, or the 32 bits of a float.
Codes are 1, 2, 4, 8, 16 or 32 bits wide and stand widest first, so none crosses a byte it does not fill; a row is a
whole number of bytes, and any row can be read without another.

Symbols beside the usual ones: `N` rows, `F` columns, `R` bytes of a row, `L` levels of all columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.threads import launch

WIDTHS = (1, 2, 4, 8, 16, 32)
LINE, LEVELS, FLOAT = 0, 1, 2
WIDE = 16
"""Columns side by side that pay for views of their own, over which a loop becomes wide."""
Float32 = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint32]


class Layout(NamedTuple):
    """Where the codes of each column stand in a row, and what they mean.

    Args:
        kind: `LINE`, `LEVELS` or `FLOAT`, int64 `[F]`.
        bits: Width of a code, int64 `[F]`.
        place: First bit of the column in a row, int64 `[F]`.
        low: Value of code 0 on a line, float64 `[F]`.
        step: Distance of two codes on a line, float64 `[F]`.
        begin: First level of a column in `levels`, int64 `[F]`.
        levels: float32 `[L]`.
        cut: First cut of a column in `cuts` and, last, where all end, int64 `[F + 1]`.
        cuts: Borders between neighbouring levels, column by column, float32.
        run: Columns of one kind and width side by side: `[begin, end)`, int64 `[runs, 2]`.
        row_bytes: R.
    """

    kind: Ids
    bits: Ids
    place: Ids
    low: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    begin: Ids
    levels: Float32
    cut: Ids
    cuts: Float32
    run: Ids
    row_bytes: int


def make_layout(
    kind: Sequence[int],
    bits: Sequence[int],
    low: Sequence[float],
    step: Sequence[float],
    levels: Sequence[Float32],
    cuts: Sequence[Float32],
) -> Layout:
    """Return the layout of some columns; equal tables of levels (the same object) are kept once.

    Args:
        kind: What each column's codes mean.
        bits: Their width, one of `WIDTHS`.
        low: Value of code 0, where codes are on a line.
        step: Distance of two codes, where they are on a line.
        levels: Table of each column, where codes are places in one.
        cuts: Borders of its levels.
    """
    if any(width not in WIDTHS for width in bits):
        raise InvalidValueError("bits", tuple(bits), f"each one of {WIDTHS}")
    width = np.array(bits, np.int64)
    place, at = np.zeros(len(width), np.int64), 0
    for column in np.argsort(-width, kind="stable"):
        place[column], at = at, at + int(width[column])
    begin, seen, tables, size = np.zeros(len(width), np.int64), dict[int, int](), list[Float32](), 0
    for column, table in enumerate(levels):
        if kind[column] == LEVELS:
            if id(table) not in seen:
                seen[id(table)] = size
                tables.append(np.asarray(table, np.float32))
                size += len(table)
            begin[column] = seen[id(table)]
    kinds = np.array(kind, np.int64)
    edges = [i for i in range(1, len(width)) if (kinds[i], width[i]) != (kinds[i - 1], width[i - 1])]
    run = np.array([*zip([0, *edges], [*edges, len(width)], strict=True)], np.int64).reshape(-1, 2)
    flat = np.concatenate(tables) if tables else np.empty(0, np.float32)
    points = (np.array(low, np.float64), np.array(step, np.float64))
    cut = np.concatenate([[0], np.cumsum([len(part) for part in cuts])]).astype(np.int64)
    borders = np.concatenate([np.asarray(part, np.float32) for part in cuts]) if len(cuts) else np.empty(0, np.float32)
    return Layout(kinds, width, place, *points, begin, flat, cut, borders, run, -(-at // 8))


def encode_rows(values: Float32, layout: Layout) -> Codes:
    """Return the code of each value, uint32 `[N, F]`: the nearest on a line, or the part between cuts that holds it.

    Columns of half floats are not for this function: their codes are no parts between cuts.

    Args:
        values: Finite float32 `[N, F]`.
        layout: What the codes mean.

    Cost:
        A few operations a value; a binary search where codes are levels.
    """
    out = np.empty(values.shape, np.uint32)
    given = np.ascontiguousarray(values, np.float32)
    spots = (layout.kind, layout.bits, layout.low, layout.step, layout.cut, layout.cuts)
    _encode(given, given.view(np.uint32), *spots, out)
    return out


def encode_rows_reference(values: Float32, layout: Layout) -> Codes:
    """State, one value at a time, what `encode_rows` must compute."""
    out = np.empty(values.shape, np.uint32)
    for (i, f), value in np.ndenumerate(values):
        if layout.kind[f] == LINE:
            most = 2 ** int(layout.bits[f]) - 1
            out[i, f] = min(max(np.rint((float(value) - layout.low[f]) / layout.step[f]), 0), most)
        elif layout.kind[f] == LEVELS:
            out[i, f] = (layout.cuts[layout.cut[f] : layout.cut[f + 1]] <= value).sum()
        else:
            out[i, f] = np.float32(value).view(np.uint32)
    return out


def pack_rows(codes: Codes, layout: Layout) -> npt.NDArray[np.uint8]:
    """Return codes as packed rows, uint8 `[N, R]`.

    Args:
        codes: uint32 `[N, F]`, each below 2 to the power of its width.
        layout: Where they go.

    Cost:
        A few operations a code; allocates only the result.
    """
    out = np.zeros((len(codes), layout.row_bytes), np.uint8)
    _pack(np.ascontiguousarray(codes, np.uint32), layout.bits, layout.place, out)
    return out


def unpack_rows(packed: npt.NDArray[np.uint8], layout: Layout) -> Codes:
    """Return the codes of packed rows, uint32 `[N, F]`: the inverse of `pack_rows`."""
    out = np.zeros((len(packed), len(layout.bits)), np.uint32)
    _unpack(np.ascontiguousarray(packed), layout.bits, layout.place, out)
    return out


def decode_rows(
    packed: npt.NDArray[np.uint8], layout: Layout, rows: Ids | None = None, out: Float32 | None = None
) -> Float32:
    """Gather rows and decode them, in one pass over the packed bytes.

    Args:
        packed: uint8 `[N, R]`; may be a memory map.
        layout: What the codes mean.
        rows: Rows to take, int64 `[B]`; all in order if None.
        out: float32 `[B, F]` to fill in instead of a new array.

    Returns:
        float32 `[B, F]`.

    Raises:
        InvalidValueError: If a row is not there, or `out` does not fit.

    Cost:
        R bytes read a row, a few operations a value; allocates only the result.
    """
    taken = np.arange(len(packed)) if rows is None else np.ascontiguousarray(rows, np.int64)
    if len(taken) and (taken.min() < 0 or taken.max() >= len(packed)):
        raise InvalidValueError("rows", (int(taken.min()), int(taken.max())), f"in [0, {len(packed)})")
    shape = (len(taken), len(layout.bits))
    found = np.empty(shape, np.float32) if out is None else out
    if found.shape != shape or found.dtype != np.float32:
        raise InvalidValueError("out", (found.shape, found.dtype), f"float32 {shape}")
    launch(len(taken), found.size, _decode, _decode_parallel, packed, taken, _decoding(layout), found)
    return found


def _decoding(layout: Layout) -> tuple[npt.NDArray[np.generic], ...]:
    return (*layout[:7], layout.run)


def decode_rows_reference(packed: npt.NDArray[np.uint8], layout: Layout, rows: Ids) -> Float32:
    """State, one value at a time, what `decode_rows` must compute."""
    out = np.empty((len(rows), len(layout.bits)), np.float32)
    for i, row in enumerate(rows):
        line = int.from_bytes(packed[row].tobytes(), "little")
        for f, (kind, bits, place) in enumerate(zip(layout.kind, layout.bits, layout.place, strict=True)):
            code = (line >> int(place)) & ((1 << int(bits)) - 1)
            if kind == LINE:
                out[i, f] = layout.low[f] + layout.step[f] * code
            elif kind == LEVELS:
                out[i, f] = layout.levels[layout.begin[f] + code]
            else:
                out[i, f] = np.array([code], np.uint32).view(np.float32)[0]
    return out


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True, inline="always")
def _read(line, bits, place):  # type: ignore[no-untyped-def]
    byte = place >> 3
    if bits < 8:
        return np.uint32((line[byte] >> (place & 7)) & ((1 << bits) - 1))
    code = np.uint32(line[byte])
    if bits > 8:
        code |= np.uint32(line[byte + 1]) << np.uint32(8)
    if bits > 16:
        code |= np.uint32(line[byte + 2]) << np.uint32(16)
        code |= np.uint32(line[byte + 3]) << np.uint32(24)
    return code


@numba.njit(cache=True, nogil=True)
def _encode(values, words, kind, bits, low, step, cut, cuts, out):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        for f in range(values.shape[1]):
            value = values[i, f]
            if kind[f] == LINE:
                place = np.rint((np.float64(value) - low[f]) / step[f])
                out[i, f] = np.uint32(min(max(place, 0.0), np.float64((np.int64(1) << bits[f]) - 1)))
            elif kind[f] == LEVELS:
                a, b = cut[f], cut[f + 1]
                while a < b:
                    middle = (a + b) >> 1
                    if cuts[middle] <= value:
                        a = middle + 1
                    else:
                        b = middle
                out[i, f] = np.uint32(a - cut[f])
            else:
                out[i, f] = words[i, f]


@numba.njit(cache=True, nogil=True)
def _pack(codes, bits, place, out):  # type: ignore[no-untyped-def]
    for i in range(codes.shape[0]):
        for f in range(codes.shape[1]):
            code, byte = codes[i, f], place[f] >> 3
            if bits[f] < 8:
                out[i, byte] |= np.uint8(code << (place[f] & 7))
            else:
                for b in range(bits[f] >> 3):
                    out[i, byte + b] = np.uint8((code >> np.uint32(8 * b)) & np.uint32(255))


@numba.njit(cache=True, nogil=True)
def _unpack(packed, bits, place, out):  # type: ignore[no-untyped-def]
    for i in range(packed.shape[0]):
        for f in range(out.shape[1]):
            out[i, f] = _read(packed[i], bits[f], place[f])


@numba.njit(cache=True, nogil=True, inline="always")
def _line_bytes(line, at, a, b, low, step, target):  # type: ignore[no-untyped-def]
    """Decode bytes on lines, columns `[a, b)`."""
    if b - a < WIDE:
        for f in range(a, b):
            target[f] = low[f] + step[f] * line[at + f - a]
        return
    codes, points, steps, found = line[at : at + b - a], low[a:b], step[a:b], target[a:b]
    for k in range(b - a):  # all begin at 0 and go up by one: the compiler makes it wide
        found[k] = points[k] + steps[k] * codes[k]


@numba.njit(cache=True, nogil=True)
def _decode(first, last, packed, rows, layout, out):  # type: ignore[no-untyped-def]
    kind, bits, place, low, step, begin, levels, run = layout
    word = np.empty(1, np.uint32)
    real = word.view(np.float32)
    for i in range(first, last):
        row = rows[i]
        line, target = packed[row], out[i]
        for r in range(len(run)):
            a, b = run[r, 0], run[r, 1]
            width = bits[a]
            if kind[a] == LINE and width == 8:
                _line_bytes(line, place[a] >> 3, a, b, low, step, target)
            elif kind[a] == LINE:
                for f in range(a, b):
                    target[f] = low[f] + step[f] * _read(line, width, place[f])
            elif kind[a] == LEVELS:
                for f in range(a, b):
                    target[f] = levels[begin[f] + _read(line, width, place[f])]
            else:
                for f in range(a, b):
                    word[0] = _read(line, width, place[f])
                    target[f] = real[0]


@numba.njit(cache=True, nogil=True, parallel=True)
def _decode_parallel(threads, rows, packed, taken, layout, out):  # type: ignore[no-untyped-def]
    for t in numba.prange(threads):
        _decode(rows * t // threads, rows * (t + 1) // threads, packed, taken, layout, out)
