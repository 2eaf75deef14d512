"""The as-of join of two tables in memory: one sort of what became visible, and the newest of it so far.

Keys become dense codes and times integers of the same order. The features are grouped by key and sorted by the moment
of becoming visible; the newest of all that is visible stands beside each, so that a query is one binary search in its
group. Payload is fetched at the end, for the rows that answer a query.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
BYTES_PER_ROW = 96
_TIMES = ("s", "ms", "us", "ns")


def newest_known(
    left: pa.Table, right: pa.Table, keys: Sequence[str], time: str, happened: str, known: str | None, row: str | None
) -> Ints | None:
    """Return for each query the position in `right` of the newest row known at its time, -1 where there is none.

    Args:
        left: The queries.
        right: The features.
        keys: Columns whose values must be equal.
        time: The time of a query.
        happened: The time of a feature.
        known: When a feature became known; None if at once.
        row: Column of `right` by which rows of equal times are ranked; None for their position.

    Returns:
        The positions, or None if keys or times are of types that this join does not order as DuckDB does.

    Cost:
        O(n log m + m log m), about `BYTES_PER_ROW` bytes a row of either side beside the tables.
    """
    clocks = [(left, time), (right, happened), *([(right, known)] if known else [])]
    moments = _ranks([table[name] for table, name in clocks])
    codes = _codes([(left[key], right[key]) for key in keys])
    order = np.arange(right.num_rows) if row is None else _integers(right[row])
    if moments is None or codes is None or order is None:
        return None
    (asked, asked_known), (then, then_known) = moments[:2]
    arrived, arrived_known = moments[-1]
    seen = np.maximum(then, arrived) if known else then
    groups = np.where(then_known & arrived_known, codes[1], -1)
    found = _answer(np.where(asked_known, codes[0], -1), asked, groups, seen, then, arrived, order, codes[2])
    return np.asarray(found, np.int64)


@numba.njit(cache=True, nogil=True)
def _answer(asked_group, asked, group, seen, then, arrived, order, num_groups):  # noqa: ANN001, ANN202
    """Search each query in its group; groups and queries of -1 are left out."""
    begin, place = _grouped(group, num_groups)
    visible = seen[place]
    for g in range(num_groups):
        low, high = begin[g], begin[g + 1]
        _sort(visible[low:high], place[low:high])
        for k in range(low + 1, high):
            a, b = place[k - 1], place[k]
            if (then[a], arrived[a], order[a]) > (then[b], arrived[b], order[b]):
                place[k] = a
    found = np.full(asked.size, -1, np.int64)
    for q in range(asked.size):
        g = asked_group[q]
        if g >= 0:
            last = np.searchsorted(visible[begin[g] : begin[g + 1]], asked[q], side="right")
            if last > 0:
                found[q] = place[begin[g] + last - 1]
    return found


@numba.njit(cache=True, nogil=True)
def _grouped(group, num_groups):  # noqa: ANN001, ANN202
    """Return where each group begins and the rows group by group, each group in the order of the rows."""
    begin = np.zeros(num_groups + 1, np.int64)
    for g in group:
        if g >= 0:
            begin[g + 1] += 1
    for g in range(num_groups):
        begin[g + 1] += begin[g]
    place, fill = np.empty(begin[num_groups], np.int64), begin[:-1].copy()
    for i in range(group.size):
        if group[i] >= 0:
            place[fill[group[i]]] = i
            fill[group[i]] += 1
    return begin, place


@numba.njit(cache=True, nogil=True)
def _sort(keys, values):  # noqa: ANN001, ANN202
    """Sort both by `keys`, which cost nothing more where they are sorted already."""
    for k in range(1, keys.size):
        if keys[k] < keys[k - 1]:
            turn = np.argsort(keys)
            keys[:], values[:] = keys[turn], values[turn]
            return


def _ranks(columns: Sequence[pa.ChunkedArray]) -> list[tuple[Ints, npt.NDArray[np.bool_]]] | None:
    """Return integers in the common order of several time columns, each with where it has a value."""
    try:
        if any(pa.types.is_floating(column.type) for column in columns):
            return [(_ordered(column.cast(pa.float64(), safe=False)), _valid(column)) for column in columns]
        if any(pa.types.is_temporal(column.type) for column in columns):
            unit = max((getattr(column.type, "unit", "ms") for column in columns), key=_TIMES.index)
            columns = [column.cast(pa.timestamp(unit, getattr(column.type, "tz", None))) for column in columns]
        ranks = [_integers(column) for column in columns]
    except pa.ArrowInvalid:  # out of the range of 64 bits in the common unit
        return None
    if any(rank is None for rank in ranks):
        return None
    return [(rank, _valid(column)) for rank, column in zip(ranks, columns, strict=True) if rank is not None]


def _ordered(column: pa.ChunkedArray) -> Ints:
    """Return integers in the order of doubles: no number is above NaN, and both zeros are equal."""
    values: npt.NDArray[np.float64] = np.array(column.fill_null(0.0).to_numpy(), np.float64)
    values[values == 0] = 0.0
    values[np.isnan(values)] = np.nan
    bits = values.view(np.int64)
    return np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits)


def _integers(column: pa.ChunkedArray) -> Ints | None:
    """Return a column as int64, 0 where it is null; None if it has a value beyond."""
    try:
        whole = column.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return np.asarray((whole.fill_null(0) if whole.null_count else whole).to_numpy(), np.int64)


def _valid(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    return np.asarray(column.is_valid().to_numpy(), np.bool_)


def _codes(pairs: Sequence[tuple[pa.ChunkedArray, pa.ChunkedArray]]) -> tuple[Ints, Ints, int] | None:
    """Return codes of the keys of queries and features and their number; -1 for a null or a key without features."""
    found: tuple[Ints, Ints, int] | None = None
    for pair in pairs:
        alike = _alike(*pair)
        if alike is None:
            return None
        codes = _dense(*alike)
        found = (
            codes
            if found is None
            else _dense(_joint(found[0], codes[0], codes[2]), _joint(found[1], codes[1], codes[2]))
        )
    return found


def _joint(first: Ints, second: Ints, size: int) -> pa.ChunkedArray:
    """Return one code for each pair of codes, the second below `size`; null where either is -1."""
    return pa.chunked_array([pa.array(first * size + second, mask=(first < 0) | (second < 0))])


def _dense(asked: pa.ChunkedArray, rows: pa.ChunkedArray) -> tuple[Ints, Ints, int]:
    coded = rows.dictionary_encode().unify_dictionaries()
    values = coded.chunk(0).dictionary if coded.num_chunks else pa.array([], rows.type)
    indices = pa.chunked_array([chunk.indices for chunk in coded.chunks], pa.int32())
    found = pc.index_in(asked, value_set=values, skip_nulls=True)
    return _filled(found), _filled(indices), len(values)


def _filled(column: pa.ChunkedArray) -> Ints:
    return np.asarray((column.fill_null(-1) if column.null_count else column).to_numpy(), np.int64)


def _alike(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray] | None:
    """Return two key columns as one type in which equality is DuckDB's; None where there is no such type here."""
    left, right = (c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in (left, right))
    kinds = (pa.types.is_integer, _is_text, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp)
    kind = next((kind for kind in kinds if kind(left.type) and kind(right.type)), None)
    if kind is pa.types.is_integer:
        common = pa.int64()
    elif kind is _is_text:
        common = pa.large_string()
    elif kind is not None and left.type == right.type:
        return left, right
    else:
        return None
    try:
        return left.cast(common), right.cast(common)
    except pa.ArrowInvalid:
        return None


def _is_text(type: pa.DataType) -> bool:
    return any(kind(type) for kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
