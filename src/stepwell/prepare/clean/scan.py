"""Check a table: all row constraints in one scan, keys and dependencies by hashes, the rest by DuckDB's aggregates.

Every row constraint is one boolean column of the same query, so their cost is about that of reading their columns.
Uniqueness and dependencies first look for suspects with 64-bit hashes that DuckDB computes while it reads (two rows of
one key always have one hash, so none is missed), and only suspects meet the exact SQL. A foreign key of whole numbers
is looked up in a map of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.kernels.agree import FirstValues, Hashes, Members, SeenTwice
from stepwell.prepare.clean.constraints import (
    Constraint,
    Determines,
    ForeignKey,
    NoDrift,
    RowConstraint,
    Unique,
    literal,
)
from stepwell.prepare.clean.drift import stability_index
from stepwell.storage.query import connect, quoted

if TYPE_CHECKING:
    import duckdb

VIOLATIONS = pa.schema([("_row", pa.int64()), ("constraint", pa.string()), ("value", pa.string())])
SUMMARY = pa.schema(
    [("constraint", pa.string()), ("holds", pa.bool_()), ("violations", pa.int64()), ("drift", pa.float64())]
)
_KEPT_BYTES = 1 << 28
_TABLE_BYTES = 1 << 29
_SAMPLE = 20_000
_RANGE = 1 << 26
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Args:
        violations: A row for each violation: `_row`, `constraint`, `value`, sorted by the first two.
        summary: A row for each constraint, in the order given: `constraint`, `holds`, `violations` (rows), and
            `drift`, which is null for all but `NoDrift`.
    """

    violations: pa.Table
    summary: pa.Table

    @property
    def holds(self) -> bool:
        """Whether every constraint holds."""
        return all(self.summary.column("holds").to_pylist())

    def __str__(self) -> str:
        lines = [
            f"{'ok ' if row['holds'] else 'NO '} {row['constraint']}: "
            + (f"{row['violations']:,} rows" if row["drift"] is None else f"drift {row['drift']:.3f}")
            for row in self.summary.to_pylist()
        ]
        return "\n".join(lines)


def check(
    data: pa.Table | str,
    constraints: Sequence[Constraint],
    *,
    others: Mapping[str, pa.Table] | None = None,
    connection: duckdb.DuckDBPyConnection | None = None,
    budget: str = "1GiB",
) -> Checked:
    """Check constraints and list every violation.

    Args:
        data: A table with `_row`, or the name of one that `connection` sees (a view over files of any size).
        constraints: What must hold.
        others: Further tables, by the names that `ForeignKey` and `NoDrift` use.
        connection: An open DuckDB connection; without it, one with the memory limit `budget` is opened.
        budget: That limit.

    Raises:
        DataError: If a column is missing or a constraint does not fit its type.
        InvalidValueError: If two constraints have one name, or `data` is a name without a connection.

    Cost:
        One scan for all row constraints together, and a look-up of the rows that violate one; for each `Unique` one or
        two scans of its columns, 4 bytes a key or less; for each `Determines` one, 32 to 64 bytes for each distinct
        group; `ForeignKey` an anti-join, two if it is violated, or a look-up for a column of whole numbers of a range
        below 64 M; `NoDrift` one aggregate. Memory beside DuckDB's limit: 8 bytes a row up to 256 MiB, at most
        512 MiB of groups (beyond, DuckDB groups by itself, on disk if need be), 64 MiB of a foreign key's map, and the
        violations found.

    Example:
        >>> from stepwell.prepare.clean.constraints import Between, NotNull
        >>> table = pa.table({"_row": [0, 1, 2], "price": [5.0, -1.0, None]})
        >>> print(check(table, [NotNull("price"), Between("price", low=0)]))
        NO  price not null: 1 rows
        NO  price >= 0: 1 rows
    """
    names = [constraint.name for constraint in constraints]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError("constraints", twice, "of distinct names: give `Check` a label")
    if isinstance(data, str) and connection is None:
        raise InvalidValueError("data", data, "a table, or a name together with the connection that sees it")
    own = connection is None
    cursor = connect(budget) if connection is None else connection.cursor()
    try:
        view = data if isinstance(data, str) else "_stepwell_checked"
        if not isinstance(data, str):
            cursor.register(view, data)
        for name, table in (others or {}).items():
            cursor.register(name, table)
        return _Check(cursor, view).run(constraints)
    finally:
        for name in others or {}:
            cursor.unregister(name)
        if not isinstance(data, str):
            cursor.unregister("_stepwell_checked")
        if own:
            cursor.close()


def predicates_query(view: str, constraints: Sequence[RowConstraint], among: str = "") -> str:
    """Return the one query that lists the violations of all row constraints: `_row`, `position`, `value`.

    The filter keeps rows with any violation; which ones, and their values, is worked out for those rows only.

    Args:
        view: The table's name.
        constraints: At least one.
        among: A table whose `_row`s are the rows with a violation, if they are known.
    """
    tests = [f"coalesce({constraint.violated()}, false)" for constraint in constraints]
    found = [
        f"case when {test} then {{'position': {i}, 'value': {_shown(constraint.columns)}}} end"
        for i, (test, constraint) in enumerate(zip(tests, constraints, strict=True))
    ]
    anywhere = f"_row in (select _row from {quoted(among)})" if among else _anywhere(constraints)
    return (
        f"select _row, hit.position as position, hit.value as value from (select _row, unnest([{', '.join(found)}]) "
        f"as hit from {quoted(view)} where {anywhere}) where hit is not null"
    )


def _anywhere(constraints: Sequence[RowConstraint]) -> str:
    """Return SQL that is true where a row violates any of the constraints."""
    return " or ".join(constraint.violated() for constraint in constraints)


@dataclass(frozen=True)
class _Check:
    """One connection and one table.

    Args:
        connection: Sees the table and the others.
        view: The table's name.
    """

    connection: duckdb.DuckDBPyConnection
    view: str

    def run(self, constraints: Sequence[Constraint]) -> Checked:
        self._check_columns(constraints)
        parts: list[pa.Table] = []
        rows = [constraint for constraint in constraints if isinstance(constraint, RowConstraint)]
        drift: dict[str, float] = {}
        if rows:
            parts.append(self._rows(rows))
        for constraint in constraints:
            if isinstance(constraint, Unique):
                parts.append(self._named(constraint, self.unique(constraint)))
            elif isinstance(constraint, ForeignKey):
                parts.append(self._named(constraint, self.foreign(constraint)))
            elif isinstance(constraint, Determines):
                parts.append(self._named(constraint, self.determines(constraint)))
            elif isinstance(constraint, NoDrift):
                drift[constraint.name] = stability_index(self.connection, self.view, constraint)
        violations = pa.concat_tables([VIOLATIONS.empty_table(), *parts])
        violations = violations.sort_by([("_row", "ascending"), ("constraint", "ascending")]).combine_chunks()
        return Checked(violations, _summary(constraints, violations, drift))

    def _check_columns(self, constraints: Sequence[Constraint]) -> None:
        known = self.connection.table(quoted(self.view)).columns
        for constraint in constraints:
            more = [constraint.column] if isinstance(constraint, Determines) else []
            for column in ("_row", *constraint.columns, *more):
                if column not in known:
                    raise UnknownNameError(f"column of {self.view} for {constraint.name!r}", column, known)

    def _sql(self, query: str, what: str) -> pa.Table:
        import duckdb

        try:
            return self.connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            problem = f"{what!r} cannot be checked ({str(error).splitlines()[0]})"
            raise DataError(self.view, problem, "a condition that fits the columns' types", "correct it") from error

    def _rows(self, constraints: Sequence[RowConstraint]) -> pa.Table:
        what = ", ".join(constraint.name for constraint in constraints)
        hits = self._sql(f"select _row from {quoted(self.view)} where {_anywhere(constraints)}", what)
        if not len(hits):  # the usual case need not carry all columns through the filter
            return VIOLATIONS.empty_table()
        self.connection.register("_stepwell_hits", hits)
        try:
            found = self._sql(predicates_query(self.view, constraints, "_stepwell_hits"), what)
        finally:
            self.connection.unregister("_stepwell_hits")
        names = pa.array([constraint.name for constraint in constraints], pa.string())
        columns = [found.column("_row"), names.take(found.column("position").combine_chunks()), found.column("value")]
        return pa.table(columns, names=VIOLATIONS.names).cast(VIOLATIONS)

    def _named(self, constraint: Constraint, found: pa.Table) -> pa.Table:
        names = pa.array([constraint.name], pa.string()).take(pa.array(np.zeros(len(found), np.int64)))
        return pa.table([found.column(0), names, found.column(1)], names=VIOLATIONS.names).cast(VIOLATIONS)

    def _hashes(self, *keys: Sequence[str]) -> Iterator[tuple[Hashes, ...]]:
        """Yield blocks of the hashes of each key, rows with a missing value left out."""
        wanted = ", ".join(f"hash({_listed(key)}) as h{i}" for i, key in enumerate(keys))
        present = _present([column for key in keys for column in key])
        relation = self.connection.sql(f"select {wanted} from {quoted(self.view)} where {present}")
        for batch in pa.RecordBatchReader.from_stream(relation):
            yield tuple(column.to_numpy() for column in batch.columns)

    def unique(self, constraint: Unique) -> pa.Table:
        """Return `_row` and value of the rows that share their key."""
        num_rows: int = self.connection.execute(f"select count(*) from {quoted(self.view)}").fetchall()[0][0]
        bits = 1 << max(16, (16 * num_rows).bit_length() - 1)
        seen = SeenTwice(min(bits, 1 << 31))
        kept: list[Hashes] | None = []
        for (keys,) in self._hashes(constraint.columns):
            seen.add(keys)
            if kept is not None:
                kept.append(keys)
                kept = kept if sum(some.nbytes for some in kept) <= _KEPT_BYTES else None
        for keys in kept if kept is not None else (keys for (keys,) in self._hashes(constraint.columns)):
            seen.collect(keys)
        key = _listed(constraint.columns)
        return self._exact(
            seen.repeated(),
            constraint.columns,
            f" select _row, {_shown(constraint.columns)} as value from suspects "
            f"qualify count(*) over (partition by {key}) > 1",
            constraint.name,
        )

    def determines(self, constraint: Determines) -> pa.Table:
        """Return `_row` and value of the rows that differ from their group's most frequent value."""
        suspects = self._torn_groups(constraint)
        key, value = _listed(constraint.columns), quoted(constraint.column)
        majority = (
            f", counts as (select {key}, {value}, count(*) as n from suspects group by all), "
            f"tops as (select *, max(n) over (partition by {key}) as top from counts), "
            f"ties as (select *, count(*) filter (n = top) over (partition by {key}) as ties from tops) "
            f"select _row, cast({value} as varchar) as value from suspects join ties using ({key}, {value}) "
            "where n < top or ties > 1"
        )
        return self._exact(suspects, constraint.columns, majority, constraint.name, [constraint.column])

    def _torn_groups(self, constraint: Determines) -> Hashes | None:
        """Return the hashes of groups with more than one value; None: too many groups to tell within the memory.

        DuckDB counts fastest where groups are few, which the first rows show; a table of hashes where they are many.
        """
        key, value = _listed(constraint.columns), f"hash({quoted(constraint.column)})"
        sample = f"(select {key} from {quoted(self.view)} limit {_SAMPLE})"
        few = self._sql(f"select count(*) as n from (select distinct * from {sample})", constraint.name)
        if few.column("n")[0].as_py() <= 2 * _SAMPLE // 5:
            query = (
                f"select hash({key}) as h from {quoted(self.view)} where {quoted(constraint.column)} is not null "
                f"group by {key} having {_present(constraint.columns)} and min({value}) <> max({value})"
            )
            found: Hashes = self._sql(query, constraint.name).column("h").to_numpy()
            return found
        first = FirstValues()
        for keys, values in self._hashes(constraint.columns, [constraint.column]):
            first.add(keys, values)
            if first.size_bytes > _TABLE_BYTES:
                return None
        return first.torn()

    def _exact(
        self, hashes: Hashes | None, key: Sequence[str], query: str, what: str, more: Sequence[str] = ()
    ) -> pa.Table:
        """Run a query over `suspects`, the rows whose key has one of these hashes; None: all rows."""
        if hashes is not None and not len(hashes):
            return pa.table({"_row": pa.array([], pa.int64()), "value": pa.array([], pa.string())})
        columns = _listed([*key, *more])
        among = ""
        if hashes is not None:
            self.connection.register("_stepwell_hashes", pa.table({"h": hashes}))
            among = f" and hash({_listed(key)}) in (select h from _stepwell_hashes)"
        where = f"{_present([*key, *more])}{among}"
        try:
            return self._sql(
                f"with suspects as (select _row, {columns} from {quoted(self.view)} where {where}){query}", what
            )
        finally:
            if hashes is not None:
                self.connection.unregister("_stepwell_hashes")

    def foreign(self, constraint: ForeignKey) -> pa.Table:
        """Return `_row` and value of the rows whose value the other table lacks."""
        keys = constraint.keys or constraint.columns
        if self._all_mapped(constraint, keys):
            return pa.table({"_row": pa.array([], pa.int64()), "value": pa.array([], pa.string())})
        same = " and ".join(
            f"mine.{quoted(a)} = other.{quoted(b)}" for a, b in zip(constraint.columns, keys, strict=True)
        )
        lost = (
            f"from {quoted(self.view)} mine anti join {quoted(constraint.table)} other on {same} "
            f"where {_present(constraint.columns)}"
        )
        num_lost = self._sql(f"select count(*) as n {lost}", constraint.name).column("n")[0].as_py()
        if not num_lost:  # the usual case need not carry rows and values through the join
            return pa.table({"_row": pa.array([], pa.int64()), "value": pa.array([], pa.string())})
        return self._sql(f"select _row, {_shown(constraint.columns)} as value {lost}", constraint.name)

    def _all_mapped(self, constraint: ForeignKey, keys: Sequence[str]) -> bool:
        """Say whether a map of the other table's whole numbers shows that none is missing; False: not shown."""
        if len(keys) != 1:
            return False
        sides = ((self.view, constraint.columns[0]), (constraint.table, keys[0]))
        for view, column in sides:
            kinds = self._sql(f"select typeof({quoted(column)}) as t from {quoted(view)} limit 1", constraint.name)
            if not len(kinds) or kinds.column("t")[0].as_py() not in _WHOLE:
                return False
        bounds = f"select min({quoted(keys[0])}) as low, max({quoted(keys[0])}) as high from {quoted(constraint.table)}"
        low, high = (column[0].as_py() for column in self._sql(bounds, constraint.name).columns)
        if low is None or high - low >= _RANGE:
            return False
        members = Members(low, high)
        for numbers in self._numbers(*sides[1]):
            members.add(numbers)
        return not any(members.lacks(numbers) for numbers in self._numbers(*sides[0]))

    def _numbers(self, view: str, column: str) -> Iterator[npt.NDArray[np.int64]]:
        """Yield blocks of a column of whole numbers, missing ones left out."""
        name = quoted(column)
        relation = self.connection.sql(f"select {name}::bigint as n from {quoted(view)} where {name} is not null")
        for batch in pa.RecordBatchReader.from_stream(relation):
            yield batch.column(0).to_numpy()


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(quoted, columns))


def _present(columns: Sequence[str]) -> str:
    return " and ".join(f"{quoted(column)} is not null" for column in columns)


def _shown(columns: Sequence[str]) -> str:
    """Return SQL for the values as one text, null if all are."""
    if len(columns) == 1:
        return f"cast({quoted(columns[0])} as varchar)"
    return f"concat_ws({literal(', ')}, {', '.join(f'cast({quoted(column)} as varchar)' for column in columns)})"


def _summary(constraints: Sequence[Constraint], violations: pa.Table, drift: Mapping[str, float]) -> pa.Table:
    counted = violations.group_by("constraint").aggregate([([], "count_all")]).to_pylist()
    counts = {row["constraint"]: row["count_all"] for row in counted}
    limits = {one.name: one.most for one in constraints if isinstance(one, NoDrift)}
    rows = []
    for constraint in constraints:
        name = constraint.name
        count, moved = counts.get(name, 0), drift.get(name)
        holds = count == 0 and (moved is None or moved <= limits[name])
        rows.append({"constraint": name, "holds": holds, "violations": count, "drift": moved})
    return pa.Table.from_pylist(rows, SUMMARY)
