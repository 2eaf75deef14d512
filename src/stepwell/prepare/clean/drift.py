"""How far a column's distribution has moved from a reference: the population stability index."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import DataError
from stepwell.prepare.clean.constraints import NoDrift, literal
from stepwell.storage.query import quoted

if TYPE_CHECKING:
    import duckdb

_CLASSES = 50


def stability_index(connection: duckdb.DuckDBPyConnection, view: str, constraint: NoDrift) -> float:
    """Return the index of `constraint.column` in `view` against the reference table; 0 is no change.

    Half a row is added to each class, so that an empty one counts and does not make the index infinite.

    Raises:
        DataError: If one of the tables is empty.

    Cost: one aggregate of each table for numbers, two of the reference for text or its quantiles.
    """
    column = quoted(constraint.column)
    kind = connection.sql(f"select {column} from {quoted(view)} limit 0").types[0]
    numeric = str(kind).split("(")[0] not in ("VARCHAR", "BOOLEAN", "BLOB", "ENUM")
    cases = (_ranges if numeric else _frequent)(connection, constraint)
    found = []
    for table in (view, constraint.table):
        counts = ", ".join(f"count(*) filter ({case})" for case in cases)
        row = connection.execute(f"select count(*), {counts} from {quoted(table)}").fetchall()[0]
        if not row[0]:
            raise DataError(table, "has no rows", "a table with rows on both sides of a drift test", "fill it")
        found.append(np.array([*row[1:], row[0] - sum(row[1:])], np.float64))
    now, before = found
    return index_of_counts(now, before)


def index_of_counts(now: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> float:
    """Return the sum over classes of `(p - q) log(p / q)`, with half a row added to each class in use."""
    used = (now > 0) | (before > 0)
    p, q = now[used] + 0.5, before[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def _ranges(connection: duckdb.DuckDBPyConnection, constraint: NoDrift) -> list[str]:
    column = quoted(constraint.column)
    steps = ", ".join(str(i / 10) for i in range(1, 10))
    text = f"select quantile_disc({column}, [{steps}])::varchar[] from {quoted(constraint.table)}"
    row = connection.execute(text).fetchall()[0]
    edges = list(dict.fromkeys(row[0])) if row[0] else []
    values = [literal(edge) for edge in edges]
    cases = [f"{column} <= {values[0]}"] if values else []
    cases += [f"{column} > {low} and {column} <= {high}" for low, high in pairwise(values)]
    return [*cases, *([f"{column} > {values[-1]}"] if values else [])]


def _frequent(connection: duckdb.DuckDBPyConnection, constraint: NoDrift) -> list[str]:
    column = quoted(constraint.column)
    query = (
        f"select {column}::varchar from {quoted(constraint.table)} where {column} is not null "
        f"group by 1 order by count(*) desc, 1 limit {_CLASSES}"
    )
    values = [row[0] for row in connection.execute(query).fetchall()]
    known = [f"{column} = {literal(value)}" for value in values]
    rest = f"{column} is not null" + (f" and {column} not in ({', '.join(map(literal, values))})" if values else "")
    return [*known, rest]
