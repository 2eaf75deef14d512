"""Which columns determine which, up to a few errors: constraints that one may then ask for.

References:
    Kivinen, Mannila, "Approximate inference of functional dependencies from relations", TCS 1995 (the error g3: the
    least share of rows to remove so that the dependency holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.prepare.clean.constraints import Determines

DEPENDENCIES = pa.schema(
    [("columns", pa.list_(pa.string())), ("column", pa.string()), ("error", pa.float64()), ("support", pa.int64())]
)


def dependencies(table: pa.Table, *, most_error: float = 0.05, width: int = 1, columns: Sequence[str] = ()) -> pa.Table:
    """Return the approximate dependencies of a table, the surest first.

    A dependency is tested on the rows whose group has another row, because a lone row cannot contradict it. One that
    no group supports better than the column's most frequent value does is left out, and so is one whose determinant
    contains a smaller one that is reported.

    Args:
        table: The rows; missing values are left out.
        most_error: Largest share of the tested rows that must be removed for it to hold.
        width: Most columns that determine together.
        columns: Which to look at; by default all but `_row`.

    Returns:
        `columns`, `column`, `error`, `support` (tested rows). `constraints_of` makes constraints of them.

    Cost: O(C^(width + 1)) sorts of N pairs.
    """
    if not 0 <= most_error < 1 or width < 1:
        raise InvalidValueError("most_error, width", (most_error, width), "a share below 1, and at least 1")
    names = list(columns) or [name for name in table.schema.names if name != "_row"]
    codes = {name: _codes(table.column(name)) for name in names}
    found: list[tuple[list[str], str, float, int]] = []
    for size in range(1, width + 1):
        for left in combinations(names, size):
            group = _together([codes[name] for name in left])
            for name in names:
                known = any(set(some) < set(left) and column == name for some, column, _, _ in found)
                if name not in left and not known:
                    error, support, usual = g3_error(group, codes[name])
                    if support and error <= most_error and error < usual:
                        found.append((list(left), name, error, support))
    found.sort(key=lambda one: (one[2], -one[3], one[0], one[1]))
    parts = list(zip(*found, strict=True)) or [()] * len(DEPENDENCIES)
    return pa.table([pa.array(part, kind.type) for part, kind in zip(parts, DEPENDENCIES, strict=True)], DEPENDENCIES)


def constraints_of(found: pa.Table) -> list[Determines]:
    """Return dependencies as constraints."""
    return [Determines(tuple(row["columns"]), row["column"]) for row in found.to_pylist()]


def g3_error(group: Ids, value: Ids) -> tuple[float, int, float]:
    """Return the error of `group -> value`, the rows tested, and the error of always saying the most frequent value.

    Args:
        group: Codes, -1 where missing, `[N]`.
        value: Codes, -1 where missing, `[N]`.
    """
    present = (group >= 0) & (value >= 0)
    group, value = group[present], value[present]
    if not len(group):
        return 0.0, 0, 0.0
    shared = np.bincount(group)[group] > 1
    group, value = group[shared], value[shared]
    if not len(group):
        return 0.0, 0, 0.0
    pairs, counts = np.unique(group * (int(value.max()) + 1) + value, return_counts=True)
    best = np.zeros(int(group.max()) + 1, np.int64)
    np.maximum.at(best, pairs // (int(value.max()) + 1), counts)
    size = len(group)
    return 1 - int(best.sum()) / size, size, 1 - int(np.bincount(value).max()) / size


def g3_error_reference(group: Ids, value: Ids) -> tuple[float, int, float]:
    """State what `g3_error` must compute."""
    rows = [(int(g), int(v)) for g, v in zip(group, value, strict=True) if g >= 0 and v >= 0]
    rows = [row for row in rows if sum(other[0] == row[0] for other in rows) > 1]
    if not rows:
        return 0.0, 0, 0.0
    kept = sum(max(rows.count(row) for row in rows if row[0] == g) for g in {row[0] for row in rows})
    usual = max(sum(other[1] == row[1] for other in rows) for row in rows)
    return 1 - kept / len(rows), len(rows), 1 - usual / len(rows)


def _codes(column: pa.ChunkedArray) -> Ids:
    encoded = column.combine_chunks().dictionary_encode()
    filled: npt.NDArray[np.int64] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return filled


def _together(codes: Sequence[Ids]) -> Ids:
    """Return one code for several columns, -1 where any is missing."""
    out = codes[0]
    for other in codes[1:]:
        missing = (out < 0) | (other < 0)
        _, inverse = np.unique(np.stack([out, other], 1), axis=0, return_inverse=True)
        out = np.where(missing, -1, inverse.reshape(-1))
    return out
