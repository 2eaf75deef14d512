"""What was known at the time: the newest row of a feature table that had both happened and arrived by a query's time.

DuckDB joins on one inequality by time (`asof join`); with an arrival time there are two. They become one: a feature row
is visible from the later of its two times on, and of the rows visible at a moment only one is the answer to a query
there. Sorted by the moment of becoming visible, the answers are the rows whose time reaches the running maximum, so one
window over the features drops the rows that no query can ever see, and a plain `asof join` does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.storage.files import first_line
from stepwell.storage.query import connect, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as ds

Source: TypeAlias = "pa.Table | pa.RecordBatchReader | ds.Dataset"
_ROW = "_row"


@dataclass(frozen=True)
class AsOf:
    """The columns that an as-of join reads.

    Args:
        by: Columns of both sides whose values must be equal; one name or several, at least one.
        time: The time of a query on the left, and of what happened on the right.
        known_at: Column of the right with the time from which a row was known; None if rows were known at once.
        right_time: Name of the time on the right, if it differs.
        tolerance: The answer must not be older than this, in the unit of the times (seconds for timestamps).
        columns: Columns of the right to take; None for all but `by`.
        suffix: What a column of the right gets behind its name if the left has one of that name.

    Raises:
        InvalidValueError: If `by` is empty or `tolerance` is negative.
    """

    by: str | Sequence[str]
    time: str
    known_at: str | None = None
    right_time: str | None = None
    tolerance: float | None = None
    columns: Sequence[str] | None = None
    suffix: str = "_right"

    def __post_init__(self) -> None:
        if not self.keys:
            raise InvalidValueError("by", self.by, "at least one column")
        if self.tolerance is not None and self.tolerance < 0:
            raise InvalidValueError("tolerance", self.tolerance, "at least 0")

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of `by`, always as a tuple."""
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)


def join_asof(left: Source, right: Source, on: AsOf, *, budget: str = "1GiB") -> pa.RecordBatchReader:
    """Give each left row the right row that was the newest known at its time.

    Of the right rows of the same `by` whose time and `known_at` are both at or before the query's time, the newest by
    (`time`, `known_at`); of rows equal in both, the one with the largest `_row` if the right has row ids. A correction
    that arrived late is therefore seen by later queries and by no earlier one. Every left row comes back exactly once,
    in no particular order, with nulls where nothing was known; a right row with a null key, time or `known_at` can
    answer no query.

    Args:
        left: The queries.
        right: The features.
        on: The columns to join on.
        budget: Memory that DuckDB may use before it spills to disk.

    Returns:
        The left columns, then those of the right (its `_row` too, as `_row_right`: the row that each answer comes
        from), streamed.

    Raises:
        UnknownNameError: If a column does not exist.
        DataError: If the times of both sides cannot be compared, or the budget does not suffice.

    Cost:
        O(n log n + m log m): one sort of each side for the join, and one of the right for the window; both spill.
    """
    import duckdb

    query = asof_sql(left.schema, right.schema, on)
    connection = connect(budget)
    try:
        connection.register("queries", left)
        connection.register("features", right)
        reader = pa.RecordBatchReader.from_stream(connection.sql(query))
    except (duckdb.Error, pa.ArrowException) as error:
        connection.close()
        raise _refused(error) from error
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader))


def _batches(connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    import duckdb

    try:
        yield from reader
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _refused(error) from error
    finally:
        connection.close()


def asof_sql(left: pa.Schema, right: pa.Schema, on: AsOf, queries: str = "queries", features: str = "features") -> str:
    """Return the query that `join_asof` runs, over two relations of the given names and schemas.

    Raises:
        UnknownNameError: If a column does not exist.
        DataError: If the times of both sides cannot be compared.
    """
    happened = on.right_time or on.time
    _check(left, right, on, happened)
    keys = [quoted(name) for name in on.keys]
    equal = " and ".join(f"l.{key} = r.{key}" for key in keys)
    taken = on.columns if on.columns is not None else [name for name in right.names if name not in on.keys]
    taken = [*dict.fromkeys(taken)]
    clash = set(left.names)
    answer = [(f"r.{quoted(name)}", quoted(name + on.suffix if name in clash else name)) for name in taken]
    time = f"r.{quoted(happened)}"
    if on.tolerance is not None:
        fresh = f"{_age(left.field(on.time).type, f'l.{quoted(on.time)}', time)} <= {on.tolerance}"
        answer = [(f"case when {fresh} then {value} end", name) for value, name in answer]
    columns = ", ".join(["l.*", *(f"{value} as {name}" for value, name in answer)])
    newest = _newest(right, on, happened, features)
    return (
        f"select {columns} from {queries} l asof left join ({newest}) r on {equal} and l.{quoted(on.time)} >= r._seen"
    )


def _newest(right: pa.Schema, on: AsOf, happened: str, features: str) -> str:
    """Return the select of the right rows that answer a query at some moment, with that moment's beginning `_seen`."""
    keys, time = ", ".join(quoted(name) for name in on.keys), quoted(happened)
    seen, order = time, [time]
    if on.known_at is not None:
        known = quoted(on.known_at)
        # greatest() passes over nulls: a row whose arrival is unknown must not count as known at once
        seen = f"case when {known} is not null then greatest({time}, {known}) end"
        order = ["_seen", time, known]
    if _ROW in right.names:
        order.append(quoted(_ROW))
    window = f"(partition by {keys} order by {', '.join(order)} rows unbounded preceding)"
    following = f"(partition by {keys} order by {', '.join(order)})"
    return (
        f"select * from (select *, {seen} as _seen from {features}) where _seen is not null and {time} is not null "
        f"qualify {time} >= max({time}) over {window} and _seen is distinct from lead(_seen) over {following}"
    )


def _age(type: pa.DataType, query: str, time: str) -> str:
    """Return the SQL of a query's distance from its answer, in the unit of `AsOf.tolerance`."""
    return f"epoch({query} - {time})" if pa.types.is_temporal(type) else f"{query} - {time}"


def _check(left: pa.Schema, right: pa.Schema, on: AsOf, happened: str) -> None:
    for name in (*on.keys, on.time):
        if name not in left.names:
            raise UnknownNameError("column of the queries", name, left.names)
    for name in (*on.keys, happened, *([on.known_at] if on.known_at else []), *(on.columns or ())):
        if name not in right.names:
            raise UnknownNameError("column of the features", name, right.names)
    kinds = {_kind(left.field(on.time).type), *(_kind(right.field(n).type) for n in (happened, on.known_at) if n)}
    if len(kinds) > 1 or None in kinds:
        problem = f"times of kinds {sorted(str(kind) for kind in kinds)} stand against each other"
        allowed = "numbers on both sides, dates or timestamps without zone on both, or timestamps with zone on both"
        raise DataError(f"column {on.time!r}", problem, allowed, "cast one side to the type of the other")


def _kind(type: pa.DataType) -> str | None:
    if pa.types.is_integer(type) or pa.types.is_floating(type):
        return "number"
    if pa.types.is_date(type) or pa.types.is_timestamp(type):
        return "timestamp with zone" if getattr(type, "tz", None) else "timestamp"
    return None


def _refused(error: Exception) -> DataError:
    if "Out of Memory" in str(error):
        problem, allowed = f"ran out of memory ({first_line(error)})", "what fits the budget with its spill files"
        return DataError("as-of join", problem, allowed, "pass a larger `budget`")
    return DataError("as-of join", f"was refused ({first_line(error)})", "columns that can be compared", "cast them")


def join_asof_reference(left: pa.Table, right: pa.Table, on: AsOf) -> list[int]:
    """State, one query at a time, which position of `right` `join_asof` must find; -1 where nothing was known."""
    happened, known = on.right_time or on.time, on.known_at
    rows = right.to_pylist()
    found = np.full(left.num_rows, -1, np.int64)
    for place, query in enumerate(left.to_pylist()):
        best: tuple[object, ...] | None = None
        for at, row in enumerate(rows):
            times = [row[happened], *([row[known]] if known else [])]
            if any(query[key] is None or row[key] is None or query[key] != row[key] for key in on.keys):
                continue
            if query[on.time] is None or None in times or max(times) > query[on.time]:
                continue
            rank = (*times, row.get(_ROW, at))
            if best is None or rank > best:
                best, found[place] = rank, at
        if found[place] >= 0 and on.tolerance is not None:
            if query[on.time] - rows[int(found[place])][happened] > on.tolerance:
                found[place] = -1
    return [int(at) for at in found]
