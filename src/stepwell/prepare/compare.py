"""Which rows of two tables differ, null for null and NaN for NaN: what "changed" and the look-ahead test rest on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.prepare.step import ROW

Mask = npt.NDArray[np.bool_]
_CLOSE = 1e-5


def changed_rows(before: pa.Table, after: pa.Table) -> int:
    """Count the rows of one id of which a column of both has another value.

    Cost:
        One comparison a cell; a look-up of ids if the rows are not the same ones in the same order.
    """
    both = [name for name in before.schema.names if name != ROW and name in after.schema.names]
    if not both:
        return 0
    old, new = before.column(ROW), after.column(ROW)
    if not old.equals(new):
        place = pc.index_in(new, old)
        known = place.is_valid()
        after, before = after.filter(known), before.take(pc.drop_null(place))
    changed = np.zeros(len(after), np.bool_)
    for name in both:
        changed |= differs(before.column(name), after.column(name))
    return int(changed.sum())


def differs(a: pa.ChunkedArray, b: pa.ChunkedArray, *, close: bool = False) -> Mask:
    """Return where two columns of one length differ; a change of type alone is none if the values are equal.

    Args:
        a: A column.
        b: The other one.
        close: Whether floats within a relative error of 1e-5 are equal.
    """
    if a.equals(b):
        return np.zeros(len(a), np.bool_)
    if _is_real(a.type) or _is_real(b.type):
        x, y = _reals(a), _reals(b)
        if x is not None and y is not None:
            return ~np.isclose(x, y, rtol=_CLOSE if close else 0.0, atol=1e-8 if close else 0.0, equal_nan=True)
    if a.type == b.type and not pa.types.is_nested(a.type):
        equal = pc.fill_null(pc.equal(a, b), fill_value=False)
        equal = pc.or_(equal, pc.and_(pc.is_null(a), pc.is_null(b)))
        return ~np.asarray(equal)
    return np.array([x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)], np.bool_)


def first_difference(a: pa.Table, b: pa.Table) -> tuple[int, str] | None:
    """Return (id, column) of the first row in which two tables differ, floats compared closely; rows in any order."""
    a, b = a.sort_by(ROW), b.sort_by(ROW)
    x, y = a.column(ROW).to_numpy(), b.column(ROW).to_numpy()
    if not np.array_equal(x, y):
        odd = np.setxor1d(x, y)
        return (int(odd[0]) if len(odd) else -1), ROW
    if a.schema.names != b.schema.names:
        odd_names = sorted(set(a.schema.names) ^ set(b.schema.names))
        return -1, odd_names[0] if odd_names else ROW
    for name in a.schema.names:
        where = differs(a.column(name), b.column(name), close=True)
        if where.any():
            return int(x[np.argmax(where)]), name
    return None


def _is_real(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))


def _reals(column: pa.ChunkedArray) -> npt.NDArray[np.float64] | None:
    """Return a numeric column with null as the largest number, so that null is not NaN; None of other columns."""
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    values = column.cast(pa.float64(), safe=False)
    filled: npt.NDArray[np.float64] = pc.fill_null(values, np.finfo(np.float64).max).to_numpy()
    return filled
