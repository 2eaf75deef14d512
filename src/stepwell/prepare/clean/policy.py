"""What becomes of rows that violate a constraint: quarantine, or a repair by a rule with a record of each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.storage.query import connect, quoted

Mask = npt.NDArray[np.bool_]
REPAIRS = pa.schema(
    [("_row", pa.int64()), ("column", pa.string()), ("before", pa.string()), ("after", pa.string()),
     ("constraint", pa.string())]
)  # fmt: skip


@dataclass(frozen=True)
class Drop:
    """Put the row into quarantine."""


@dataclass(frozen=True)
class Clip:
    """Move a number to the nearer end of its range.

    Args:
        column: A numeric column.
        low: Least value, or None.
        high: Greatest value, or None.
    """

    column: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Missing:
    """Make the value missing.

    Args:
        column: The column.
        indicator: Name of a boolean column to add that is true where this was done, or "".
    """

    column: str
    indicator: str = ""


@dataclass(frozen=True)
class Fill:
    """Put the group's typical value, learnt from rows without a violation.

    Args:
        column: The column.
        how: `"mode"` for any type, `"median"` for numbers.
        by: Columns of the group; a group that was never seen gets the value of all rows.
    """

    column: str
    how: Literal["mode", "median"] = "mode"
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.how not in ("mode", "median"):
            raise InvalidValueError("how", self.how, "'mode' or 'median'")


@dataclass(frozen=True)
class Apply:
    """Put what a function makes of the violating rows.

    Args:
        column: The column.
        function: Takes the violating rows as a table and returns the column's new values.
    """

    column: str
    function: Callable[[pa.Table], pa.Array]


Repair: TypeAlias = Drop | Clip | Missing | Fill | Apply


@dataclass(frozen=True)
class Repaired:
    """What repairs gave.

    Args:
        out: The rows that go on.
        quarantine: The rows taken out: `_row`, `reason`, and their columns.
        repairs: A row for each changed cell: `_row`, `column`, `before`, `after`, `constraint`.
    """

    out: pa.Table
    quarantine: pa.Table
    repairs: pa.Table


def quarantine(table: pa.Table, violations: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows without a violation, and the others with their `reason`s.

    Cost: O(N) and a group-by of the violations.
    """
    pairs = violations.select(["_row", "constraint"]).group_by(["_row", "constraint"]).aggregate([])
    reasons: dict[int, list[str]] = {}
    for row, name in zip(pairs.column("_row").to_pylist(), pairs.column("constraint").to_pylist(), strict=True):
        reasons.setdefault(row, []).append(name)
    bad = pc.is_in(table.column("_row"), pa.array(list(reasons), pa.int64()))
    gone = table.filter(bad)
    texts = ["; ".join(sorted(reasons[row])) for row in gone.column("_row").to_pylist()]
    return table.filter(pc.invert(bad)), gone.add_column(1, "reason", pa.array(texts, pa.string()))


def repair(
    table: pa.Table, violations: pa.Table, repairs: Mapping[str, Repair], *, train: pa.Table | None = None
) -> Repaired:
    """Apply a repair for each constraint; violations of constraints without one put their rows into quarantine.

    Args:
        table: Rows with `_row`.
        violations: From `check`.
        repairs: Constraint's name to what to do.
        train: The rows that `Fill` may learn from; by default all of `table`. Violating rows are left out of it.

    Raises:
        UnknownNameError: If a repair names a column that the table lacks.
        DataError: If a function returns another number of values.

    Cost: O(N) for each repair; `Fill` one aggregate.
    """
    missing = violations.filter(
        pc.invert(pc.is_in(violations.column("constraint"), pa.array(list(repairs), pa.string())))
    )
    dropped = [name for name, one in repairs.items() if isinstance(one, Drop)]
    gone = pc.is_in(violations.column("constraint"), pa.array(dropped, pa.string()))
    out, taken = quarantine(table, pa.concat_tables([missing, violations.filter(gone)]))
    clean = table if train is None else train
    clean = clean.filter(pc.invert(pc.is_in(clean.column("_row"), violations.column("_row").combine_chunks())))
    log = [REPAIRS.empty_table()]
    for name, one in repairs.items():
        if isinstance(one, Drop):
            continue
        if one.column not in out.schema.names:
            raise UnknownNameError("column", one.column, out.schema.names)
        rows = violations.filter(pc.equal(violations.column("constraint"), name)).column("_row").combine_chunks()
        mask = pc.is_in(out.column("_row"), rows).combine_chunks().to_numpy(zero_copy_only=False)
        new = _new_values(out.filter(pa.array(mask)), one, clean)
        if isinstance(one, Missing) and one.indicator:
            out = out.append_column(one.indicator, pa.array(mask))
        log.append(_record(out, mask, one.column, new, name))
        out = _replaced(out, mask, one.column, new)
    return Repaired(out, taken, pa.concat_tables(log))


def _new_values(rows: pa.Table, one: Clip | Missing | Fill | Apply, clean: pa.Table) -> pa.Array:
    kind = rows.schema.field(one.column).type
    values = rows.column(one.column).combine_chunks()
    if isinstance(one, Missing):
        return pa.nulls(len(rows), kind)
    if isinstance(one, Clip):
        for bound, nearer in ((one.low, pc.max_element_wise), (one.high, pc.min_element_wise)):
            if bound is not None:
                values = nearer(values, pa.scalar(bound, kind), skip_nulls=False)
        return values
    if isinstance(one, Fill):
        return _typical(rows, one, clean).cast(kind)
    new = one.function(rows)
    if len(new) != len(rows):
        problem = f"returned {len(new)} values for {len(rows)} rows"
        raise DataError(f"repair of {one.column}", problem, "one value a row", "correct the function")
    return (new if isinstance(new, pa.Array) else new.combine_chunks()).cast(kind)


def _typical(rows: pa.Table, one: Fill, clean: pa.Table) -> pa.Array:
    """Return the mode (the least of several) or median of each row's group."""
    column = quoted(one.column)
    median = f"median({column})"
    connection = connect()
    try:
        connection.register("clean", clean)
        connection.register("wanted", rows)
        if one.how == "median":
            whole = f"select {median} as value from clean"
            grouped = f"select {_names(one.by)}, {median} as value from clean group by all"
        else:
            whole = (
                f"select {column} as value from clean where {column} is not null "
                "group by 1 order by count(*) desc, 1 limit 1"
            )
            grouped = (
                f"select {_names(one.by)}, {column} as value from clean where {column} is not null "
                f"group by {_names(one.by)}, {column} "
                f"qualify row_number() over (partition by {_names(one.by)} order by count(*) desc, {column}) = 1"
            )
        if not one.by:
            query = f"select (from ({whole})) as value from wanted"
        else:
            query = (
                f"select coalesce(g.value, (from ({whole}))) as value from wanted w left join ({grouped}) g "
                f"using ({_names(one.by)}) order by w._row"
            )
        found = connection.sql(query).to_arrow_table().column("value").combine_chunks()
    finally:
        connection.close()
    if not one.by:
        return found
    return found.take(pa.array(np.argsort(np.argsort(rows.column("_row").to_numpy()))))


def _names(columns: Sequence[str]) -> str:
    return ", ".join(map(quoted, columns))


def _record(table: pa.Table, mask: Mask, column: str, new: pa.Array, name: str) -> pa.Table:
    rows = table.filter(pa.array(mask))
    before, after = pc.cast(rows.column(column), pa.string()).combine_chunks(), pc.cast(new, pa.string())
    same = pc.fill_null(pc.equal(before, after), False)  # noqa: FBT003
    same = pc.or_(same, pc.and_(before.is_null(), after.is_null()))
    fixed = [pa.array([text] * len(rows), pa.string()) for text in (column, name)]
    ids = rows.column("_row").combine_chunks()
    return pa.table([ids, fixed[0], before, after, fixed[1]], schema=REPAIRS).filter(pc.invert(same))


def _replaced(table: pa.Table, mask: Mask, column: str, new: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(column)
    old = table.column(column).combine_chunks()
    return table.set_column(place, table.schema.field(column), pc.replace_with_mask(old, pa.array(mask), new))
