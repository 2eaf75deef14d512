"""What was known at the time: the newest row of a feature table that had both happened and arrived by a query's time.

DuckDB joins on one inequality by time (`asof join`); with an arrival time there are two. They become one: a feature row
is visible from the later of its two times on, and of the rows visible at a moment only one is the answer to a query
there. Sorted by the moment of becoming visible, the answers are the rows whose time reaches the running maximum, so one
window over the features drops the rows that no query can ever see, and a plain `asof join` does the rest. Two tables
in memory are joined without DuckDB: one sort by key and moment, and a binary search for each query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.asof_memory import BYTES_PER_ROW, newest_known
from stepwell.storage.files import first_line
from stepwell.storage.query import connect, quoted
from stepwell.storage.units import to_bytes

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as ds

Source: TypeAlias = "pa.Table | pa.RecordBatchReader | ds.Dataset"
_ROW = "_row"
_BATCH = 65_536


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
        budget: Memory for the join beside tables that are in memory already. What does not fit it, and what is no
            table, goes through DuckDB, which spills to disk beyond it.

    Returns:
        The left columns, then those of the right (its `_row` too, as `_row_right`: the row that each answer comes
        from), streamed.

    Raises:
        UnknownNameError: If a column does not exist.
        DataError: If the times of both sides cannot be compared, or the budget does not suffice.

    Cost:
        O(n log m + m log m) in memory. Through DuckDB O(n log n + m log m): one sort of each side for the join, and
        one of the right for the window; both spill.
    """
    import duckdb

    query = asof_sql(left.schema, right.schema, on)
    limit = to_bytes(budget)
    if isinstance(left, pa.Table) and isinstance(right, pa.Table):
        if (left.num_rows + right.num_rows) * BYTES_PER_ROW <= limit:
            happened, row = on.right_time or on.time, _ROW if _ROW in right.column_names else None
            found = newest_known(left, right, on.keys, on.time, happened, on.known_at, row)
            if found is not None:
                return _taken(left, right, on, found)
    connection = connect(budget)
    try:
        connection.register("queries", left)
        connection.register("features", right)
        reader = pa.RecordBatchReader.from_stream(connection.sql(query))
    except (duckdb.Error, pa.ArrowException) as error:
        connection.close()
        raise _refused(error) from error
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader))


def _taken(left: pa.Table, right: pa.Table, on: AsOf, found: npt.NDArray[np.int64]) -> pa.RecordBatchReader:
    """Return the queries beside the rows of `right` at the positions `found`, -1 for none, a batch at a time."""
    answers, named = _answers(left.schema, right.schema, on), right.select([])
    for name, as_name in answers:
        named = named.append_column(as_name, right[name])
    fields = [*left.schema, *(pa.field(field.name, field.type) for field in named.schema)]
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        for begin in range(0, left.num_rows, _BATCH):
            part, at = left.slice(begin, _BATCH), found[begin : begin + _BATCH]
            if on.tolerance is not None:
                at = np.where(_fresh(part[on.time], right[on.right_time or on.time], at, on.tolerance), at, -1)
            taken = named.take(pa.array(at, mask=at < 0))
            yield from pa.table([*part.columns, *taken.columns], schema=schema).combine_chunks().to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _fresh(
    asked: pa.ChunkedArray, happened: pa.ChunkedArray, at: npt.NDArray[np.int64], tolerance: float
) -> npt.NDArray[np.bool_]:
    """Say of which queries the answer is at most `tolerance` old; False where there is none."""
    then = happened.take(pa.array(at, mask=at < 0))
    if pa.types.is_temporal(asked.type):
        zone = getattr(asked.type, "tz", None)
        asked, then = (column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()) for column in (asked, then))
        tolerance *= 1e6
    age = pc.subtract(asked, then)
    return np.asarray(pc.fill_null(pc.less_equal(age, tolerance), fill_value=False).to_numpy(), np.bool_)


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
    answer = [(f"r.{quoted(name)}", quoted(as_name)) for name, as_name in _answers(left, right, on)]
    time = f"r.{quoted(happened)}"
    if on.tolerance is not None:
        fresh = f"{_age(left.field(on.time).type, f'l.{quoted(on.time)}', time)} <= {on.tolerance}"
        answer = [(f"case when {fresh} then {value} end", name) for value, name in answer]
    columns = ", ".join(["l.*", *(f"{value} as {name}" for value, name in answer)])
    newest = _newest(right, on, happened, features)
    return (
        f"select {columns} from {queries} l asof left join ({newest}) r on {equal} and l.{quoted(on.time)} >= r._seen"
    )


def _answers(left: pa.Schema, right: pa.Schema, on: AsOf) -> list[tuple[str, str]]:
    """Return the columns that are taken from the right, each with its name in the result."""
    taken = on.columns if on.columns is not None else [name for name in right.names if name not in on.keys]
    return [(name, name + on.suffix if name in left.names else name) for name in dict.fromkeys(taken)]


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
