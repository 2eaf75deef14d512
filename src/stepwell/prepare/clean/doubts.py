"""Rows to look at: far from all others, on both sides of a split, or moving the model most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.storage.query import connect, quoted

Floats = npt.NDArray[np.floating]


def outlier_scores(features: Floats) -> npt.NDArray[np.float64]:
    """Return how far out each row is, by how rare its values are in each column: higher is further.

    A column adds the negative log of the share of rows that are at least as far in its tail; the greatest of the sums
    over left tails, right tails, and the tail on each column's skewed side counts.

    Args:
        features: Finite numbers, `[N, F]`.

    Cost: O(F N log N).

    References:
        Li et al., "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions", TKDE 2022.
    """
    values = np.asarray(features, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InvalidValueError("features", values.shape, "finite numbers of shape [N, F]")
    ordered = np.sort(values, axis=0)
    left, right = np.empty_like(values), np.empty_like(values)
    for j in range(values.shape[1]):
        left[:, j] = -np.log(np.searchsorted(ordered[:, j], values[:, j], side="right") / len(values))
        right[:, j] = -np.log(1 - np.searchsorted(ordered[:, j], values[:, j], side="left") / len(values))
    centred = values - values.mean(0)
    skewed_left = (centred**3).mean(0) < 0
    sides = (left.sum(1), right.sum(1), np.where(skewed_left, left, right).sum(1))
    return np.asarray(np.max(sides, axis=0), np.float64)


def split_leaks(
    table: pa.Table, keys: Sequence[str], *, split: str = "split", pairs: pa.Table | None = None
) -> pa.Table:
    """Return the rows that share an entity with a row of another part of a split.

    Args:
        table: Rows with `_row`, the split column and the keys.
        keys: Columns each of which names an entity (a customer, a patient); missing ones are not compared.
        split: The column that names the part.
        pairs: Pairs of duplicates (`_row`, `other`), which must not be parted either.

    Returns:
        `_row`, `split`, `key` (the column, or `"duplicate"`), `value` (the entity, or the other row's id).

    Cost: a group-by for each key, and a join for the pairs.
    """
    connection = connect()
    parts = [
        f"select _row, {quoted(split)}::varchar as split, '{key.replace(chr(39), chr(39) * 2)}' as key, "
        f"{quoted(key)}::varchar as value from data where {quoted(key)} is not null "
        f"qualify min({quoted(split)}) over (partition by {quoted(key)}) <> "
        f"max({quoted(split)}) over (partition by {quoted(key)})"
        for key in keys
    ]
    try:
        connection.register("data", table)
        if pairs is not None:
            both = pa.concat_tables(
                [pairs.select(["_row", "other"]), pairs.select(["other", "_row"]).rename_columns(["_row", "other"])]
            )
            connection.register("pairs", both)
            parts.append(
                f"select a._row, a.{quoted(split)}::varchar as split, 'duplicate' as key, b._row::varchar as value "
                f"from pairs p join data a on a._row = p._row join data b on b._row = p.other "
                f"where a.{quoted(split)} <> b.{quoted(split)}"
            )
        if not parts:
            raise InvalidValueError("keys", list(keys), "at least one key, or pairs")
        return connection.sql(f"{' union all '.join(parts)} order by _row, key, value").to_arrow_table()
    finally:
        connection.close()


def impact_order(violations: pa.Table, rows: Ids, gradients: Floats, chance: Floats | None = None) -> pa.Table:
    """Return violations in the order in which mending them moves the model most.

    The impact of a violation is the norm of its row's gradient times the chance that the row is wrong: how far one step
    over the dirty row is expected to go astray.

    Args:
        violations: From `check` or `find_errors`: any table with `_row`.
        rows: Ids of the rows that have gradients, `[N]`.
        gradients: The loss's gradient at each row, `[N, F]`: of the last layer, for example.
        chance: Chance that each violation is one, `[V]`; by default all are certain.

    Returns:
        The violations with the column `impact`, greatest first; rows without a gradient last, with null.

    Cost: O(N F + V log V).

    References:
        Krishnan et al., "ActiveClean: Interactive Data Cleaning For Statistical Modeling", PVLDB 2016 (section 5,
        sampling in proportion to the gradient). Differs: an order, not a sample.
    """
    if len(rows) != len(gradients) or (chance is not None and len(chance) != len(violations)):
        sizes = (len(rows), len(gradients), len(violations))
        raise InvalidValueError("rows, gradients, chance", sizes, "one gradient a row and one chance a violation")
    order = np.argsort(rows)
    ids = violations.column("_row").to_numpy()
    place = np.minimum(np.searchsorted(rows[order], ids), max(0, len(rows) - 1))
    known = rows[order][place] == ids if len(rows) else np.zeros(len(ids), bool)
    norms = np.linalg.norm(gradients, axis=1)[order][place] if len(rows) else np.zeros(len(ids))
    impact = norms * (1.0 if chance is None else chance)
    column = pa.array(impact, pa.float64(), mask=~known)
    with_impact = violations.append_column("impact", column)
    return with_impact.take(pc.array_sort_indices(column, order="descending", null_placement="at_end"))
