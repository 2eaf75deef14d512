"""What changed between two versions of a table: columns, rows, and the distributions of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from stepwell.storage.query import quoted, show
from stepwell.storage.table import Table

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Shift:
    """The distribution of one numeric column before and after.

    Args:
        column: The column.
        mean: Means before and after; None of no values.
        low: Smallest values before and after.
        high: Largest values before and after.
        nulls: How many values were missing before and after.
    """

    column: str
    mean: tuple[float | None, float | None]
    low: tuple[float | None, float | None]
    high: tuple[float | None, float | None]
    nulls: tuple[int, int]


@dataclass(frozen=True)
class Diff:
    """What lies between two versions; printing it says so in lines.

    Args:
        name: The table.
        versions: The two versions.
        columns_added: Columns that only the second has.
        columns_removed: Columns that only the first has.
        columns_changed: (column, type before, type after).
        rows: Row counts before and after.
        rows_added: Rows of the second that the first lacks, over the columns of both; duplicates count.
        rows_removed: Rows of the first that the second lacks.
        shifts: The distributions of the numeric columns of both.
    """

    name: str
    versions: tuple[int, int]
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    columns_changed: tuple[tuple[str, str, str], ...]
    rows: tuple[int, int]
    rows_added: int
    rows_removed: int
    shifts: tuple[Shift, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}@{self.versions[0]} -> @{self.versions[1]}: {self.rows[0]:,} -> {self.rows[1]:,} rows"]
        lines.append(f"  rows: +{self.rows_added:,} -{self.rows_removed:,}")
        lines += [f"  column {name}: added" for name in self.columns_added]
        lines += [f"  column {name}: removed" for name in self.columns_removed]
        lines += [f"  column {name}: {before} -> {after}" for name, before, after in self.columns_changed]
        for shift in self.shifts:
            if shift.mean[0] != shift.mean[1] or shift.nulls[0] != shift.nulls[1]:
                mean = " -> ".join(map(_number, shift.mean))
                lines.append(f"  {shift.column}: mean {mean}, nulls {shift.nulls[0]:,} -> {shift.nulls[1]:,}")
        return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def diff_tables(connection: duckdb.DuckDBPyConnection, before: Table, after: Table) -> Diff:
    """Compare two versions inside DuckDB.

    Cost: two passes over both; DuckDB spills to disk above its memory limit.
    """
    show(connection, "before", before)
    show(connection, "after", after)
    old, new = before.schema, after.schema
    both = [name for name in old.names if name in new.names and old.field(name).type == new.field(name).type]
    changed = [
        (name, str(old.field(name).type), str(new.field(name).type))
        for name in old.names
        if name in new.names and name not in both
    ]
    added, removed = (
        _extra(connection, first, second, both) for first, second in (("after", "before"), ("before", "after"))
    )
    numeric = [name for name in both if _is_number(old.field(name).type)]
    return Diff(
        name=before.name,
        versions=(before.version, after.version),
        columns_added=tuple(name for name in new.names if name not in old.names),
        columns_removed=tuple(name for name in old.names if name not in new.names),
        columns_changed=tuple(changed),
        rows=(len(before), len(after)),
        rows_added=added if both else len(after),
        rows_removed=removed if both else len(before),
        shifts=_shifts(connection, numeric),
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _extra(connection: duckdb.DuckDBPyConnection, first: str, second: str, columns: list[str]) -> int:
    if not columns:
        return 0
    names = ", ".join(map(quoted, columns))
    query = f"select count(*) from (select {names} from {first} except all select {names} from {second})"
    return int(connection.sql(query).fetchall()[0][0])


def _shifts(connection: duckdb.DuckDBPyConnection, columns: list[str]) -> tuple[Shift, ...]:
    if not columns:
        return ()
    parts = ", ".join(
        f"avg({name})::double, min({name})::double, max({name})::double, count(*) - count({name})"
        for name in map(quoted, columns)
    )
    rows = [connection.sql(f"select {parts} from {which}").fetchall()[0] for which in ("before", "after")]
    pairs = list(zip(*rows, strict=True))
    return tuple(Shift(name, *pairs[4 * i : 4 * i + 4]) for i, name in enumerate(columns))
