"""Where a row comes from, and what changed between two versions: questions asked of a committed preparation.

The answer follows the row backwards through the steps: by the parents that steps listed, by its own id where none are
listed, to the rows of the source and from there to the file; on the way it gathers what steps noted about the row
(votes, repairs, spans). A source that is itself prepared is followed further.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.commit import committed_reports, side
from stepwell.prepare.row_ids import table_ids
from stepwell.prepare.step import INPUT, ROW
from stepwell.storage import Lake, Table
from stepwell.storage.lake import Diff
from stepwell.storage.query import connect, quoted, show

Value = object
_OWN = ("steps", "quarantine", "parents", "fitted")


@dataclass(frozen=True)
class Note:
    """Something a step wrote down about a row.

    Args:
        kind: The side table: `"votes"`, `"repairs"`, `"spans"`.
        step: The step's number.
        values: The row of that table.
    """

    kind: str
    step: int
    values: Mapping[str, Value]


@dataclass(frozen=True)
class SourceRow:
    """A row that a row comes from.

    Args:
        table: The table with its version.
        row: The row's id.
        files: What the table was written from; where each row's origin was kept, the row's own file.
        place: Which row of that file it is, from 0; None where that was not kept.
        values: The row as it was read.
        further: Where it comes from itself, if its table was prepared.
    """

    table: str
    row: int
    files: tuple[str, ...]
    place: int | None
    values: Mapping[str, Value]
    further: Provenance | None = None


@dataclass(frozen=True)
class Provenance:
    """All that is known of a row.

    Args:
        table: The table with its version.
        row: The row's id.
        values: The row.
        steps: (number, name, ids that the row had when it entered the step), newest first.
        notes: What steps wrote down about it or what it was made from.
        sources: The rows of the source and of joined tables that it comes from.
    """

    table: str
    row: int
    values: Mapping[str, Value]
    steps: tuple[tuple[int, str, tuple[int, ...]], ...]
    notes: tuple[Note, ...] = ()
    sources: tuple[SourceRow, ...] = field(default=())

    def __str__(self) -> str:
        return "\n".join(_lines(self, 0))


def provenance(lake: Lake, name: str, row: int, version: int | None = None) -> Provenance:
    """Say where a row of a prepared table comes from.

    Args:
        lake: The lake.
        name: The table.
        row: Its `_row`.
        version: The table's version; None for the newest.

    Raises:
        UnknownNameError: If there is no such table.
        DataError: If it was not made by a preparation.
        InvalidValueError: If it has no such row.

    Cost:
        One filtered scan of the table, each side table, and each source; a source without `_row` is read for its ids.
    """
    table = lake.table(name, version)
    reports = committed_reports(lake, name, table.version)
    values = _rows(table, [row])
    if not values:
        raise InvalidValueError("row", row, f"the `_row` of a row of {name}@{table.version}")
    parents = side(lake, name, "parents", table.version)
    inputs = _inputs(lake, name, table.version)
    current = np.array([row], np.int64)
    steps: list[tuple[int, str, tuple[int, ...]]] = []
    seen = {row}
    joined: dict[tuple[str, tuple[str, ...]], set[int]] = {}
    for step in range(len(reports) - 1, 0, -1):
        own, others = _before(parents, step, current)
        for source, ids in others:
            joined.setdefault(inputs[step][source], set()).update(ids)
        steps.append((step, reports[step].name, tuple(own.tolist())))
        seen |= set(own.tolist())
        current = own
    joined.setdefault(inputs[0][INPUT], set()).update(current.tolist())
    notes = tuple(_notes(lake, name, table.version, seen))
    sources = tuple(one for (at, key), ids in sorted(joined.items()) for one in _source_rows(lake, at, ids, key))
    return Provenance(f"{name}@{table.version}", row, values[row], tuple(steps), notes, sources)


@dataclass(frozen=True)
class LabelShift:
    """A column of few values before and after.

    Args:
        column: The column.
        counts: For each value the rows before and after.
        changed: Rows of one id whose value changed.
    """

    column: str
    counts: Mapping[str, tuple[int, int]]
    changed: int


@dataclass(frozen=True)
class PreparedDiff:
    """What lies between two versions of a prepared table.

    Args:
        tables: Columns, rows and distributions, as the lake compares any two versions.
        rows: Ids that came, went, and stayed with another value.
        labels: Columns of at most 50 values whose counts differ.
        steps: (name, rows out before, rows out after) of the steps; None where a version lacks the step.
    """

    tables: Diff
    rows: tuple[int, int, int]
    labels: tuple[LabelShift, ...]
    steps: tuple[tuple[str, int | None, int | None], ...]

    def __str__(self) -> str:
        came, went, changed = self.rows
        lines = [str(self.tables), f"  ids: +{came:,} -{went:,}, {changed:,} changed"]
        for shift in self.labels:
            counts = ", ".join(f"{value}: {a:,} -> {b:,}" for value, (a, b) in shift.counts.items())
            lines.append(f"  {shift.column}: {shift.changed:,} changed ({counts})")
        for name, a, b in self.steps:
            if a != b:
                lines.append(f"  step {name}: {_count(a)} -> {_count(b)} rows")
        return "\n".join(lines)


def diff(lake: Lake, name: str, v1: int, v2: int) -> PreparedDiff:
    """Say what changed from version `v1` to `v2`: columns, rows by id, labels, distributions, steps.

    Raises:
        UnknownNameError: If there is no such table.
        DataError: If a version is absent, or was not made by a preparation.

    Cost:
        A join of both versions by id and two passes for the distributions, in DuckDB.
    """
    before, after = lake.table(name, v1), lake.table(name, v2)
    tables = lake.diff(name, v1, v2)
    connection = connect()
    try:
        show(connection, "before", before)
        show(connection, "after", after)
        both = [c for c in before.schema.names if c in after.schema.names and c != ROW]
        same = [c for c in both if before.schema.field(c).type == after.schema.field(c).type]
        texts = [f"a.{quoted(c)}::varchar is distinct from b.{quoted(c)}::varchar" for c in both if c not in same]
        differ = " or ".join([*(f"a.{quoted(c)} is distinct from b.{quoted(c)}" for c in same), *texts]) or "false"
        joined = f'before a full join after b on a."{ROW}" = b."{ROW}"'
        ask = (
            f'select count(*) filter (a."{ROW}" is null), count(*) filter (b."{ROW}" is null), '
            f'count(*) filter (a."{ROW}" is not null and b."{ROW}" is not null and ({differ})) from {joined}'
        )
        came, went, changed = connection.sql(ask).fetchall()[0]
        labels = [_label_shift(connection, column, joined) for column in same if _may_label(before, column)]
    finally:
        connection.close()
    shifts = tuple(shift for shift in labels if shift is not None)
    return PreparedDiff(tables, (came, went, changed), shifts, _step_pairs(lake, name, v1, v2))


# Rows backwards ---------------------------------------------------------------------------------------------------


def _before(
    parents: Table | None, step: int, ids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], list[tuple[str, list[int]]]]:
    """Return the input's ids that ids come from in one step, and those of other tables by the step's name for them."""
    if parents is None:
        return ids, []
    wanted = (pc.field("step") == step) & pc.field(ROW).isin(pa.array(ids))
    listed = parents.dataset.to_table(columns=[ROW, "_parent", "_source"], filter=wanted)
    own = listed.filter(pc.equal(listed.column("_source"), INPUT)).column("_parent").to_numpy()
    plain = np.setdiff1d(ids, listed.column(ROW).to_numpy())
    others: dict[str, list[int]] = {}
    for entry in listed.filter(pc.not_equal(listed.column("_source"), INPUT)).to_pylist():
        others.setdefault(entry["_source"], []).append(entry["_parent"])
    return np.unique(np.concatenate([own, plain])), list(others.items())


def _rows(table: Table, ids: Sequence[int]) -> dict[int, Mapping[str, Value]]:
    found = table.dataset.to_table(filter=pc.field(ROW).isin(pa.array(ids, pa.int64())))
    return {entry[ROW]: {k: v for k, v in entry.items() if k != ROW} for entry in found.to_pylist()}


def _notes(lake: Lake, name: str, version: int, ids: set[int]) -> Iterator[Note]:
    for full in json.loads(lake.metadata(name, version).get("tables", "{}")):
        kind = full.removeprefix(f"{name}.")
        table = side(lake, name, kind, version)
        if kind in _OWN or table is None:
            continue
        found = table.dataset.to_table(filter=pc.field(ROW).isin(pa.array(sorted(ids), pa.int64())))
        for entry in found.to_pylist():
            step = int(entry.pop("step"))
            yield Note(kind, step, {k: v for k, v in entry.items() if v is not None})


def _inputs(lake: Lake, name: str, version: int) -> dict[int, dict[str, tuple[str, tuple[str, ...]]]]:
    """Return the tables that each step read, by its name for them, with their keys."""
    steps = side(lake, name, "steps", version)
    rows = steps.to_arrow(["step", "inputs"]).to_pylist() if steps is not None else []
    return {
        row["step"]: {name: (at, tuple(key)) for name, (at, key) in json.loads(row["inputs"]).items()} for row in rows
    }


def _source_rows(lake: Lake, at: str, ids: set[int], key: tuple[str, ...]) -> Iterator[SourceRow]:
    name, _, version = at.partition("@")
    table = lake.table(name, int(version))
    files = tuple(
        str(entry)
        for one in lake.lineage(name)
        if one.version <= table.version and one.origin.step != "prepare"
        for entry in one.origin.inputs
    )[-1:]
    if ROW in table.schema.names:
        found = _rows(table, sorted(ids))
    else:
        found = _rows_by_key(table, ids, key)
    prepared = "prepare" in lake.metadata(name, table.version)
    origins = side(lake, name, "origins", table.version)
    places = {} if origins is None else _rows(origins, sorted(ids))
    for row in sorted(ids):
        further = provenance(lake, name, row, table.version) if prepared and row in found else None
        own = places.get(row)
        kept = files if own is None else (str(own["file"]),)
        yield SourceRow(at, row, kept, None if own is None else int(str(own["place"])), found.get(row, {}), further)


def _rows_by_key(table: Table, ids: set[int], key: tuple[str, ...]) -> dict[int, Mapping[str, Value]]:
    every = table_ids(table, key)
    wanted = np.isin(every, np.array(sorted(ids), np.int64))
    found: dict[int, Mapping[str, Value]] = {}
    begin = 0
    for batch in table.batches():
        mask = wanted[begin : begin + len(batch)]
        if mask.any():
            own = every[begin : begin + len(batch)][mask]
            found |= dict(zip(own.tolist(), batch.filter(pa.array(mask)).to_pylist(), strict=True))
        begin += len(batch)
    return found


# Differences ------------------------------------------------------------------------------------------------------


def _may_label(table: Table, column: str) -> bool:
    kind = table.schema.field(column).type
    return bool(pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _label_shift(connection: object, column: str, joined: str) -> LabelShift | None:
    name = quoted(column)
    ask = f"select count(distinct {name}) from (select {name} from before union all select {name} from after)"
    if connection.sql(ask).fetchall()[0][0] > 50:  # type: ignore[attr-defined]
        return None
    counts: dict[str, list[int]] = {}
    for place, view in enumerate(("before", "after")):
        for value, count in connection.sql(  # type: ignore[attr-defined]
            f"select {name}::varchar, count(*) from {view} group by 1 order by 1"
        ).fetchall():
            counts.setdefault(str(value), [0, 0])[place] = count
    moved = (
        f'select count(*) from {joined} where a."{ROW}" is not null and b."{ROW}" is not null '
        f"and a.{name} is distinct from b.{name}"
    )
    changed = int(connection.sql(moved).fetchall()[0][0])  # type: ignore[attr-defined]
    if not changed and all(a == b for a, b in counts.values()):
        return None
    return LabelShift(column, {value: (a, b) for value, (a, b) in counts.items()}, changed)


def _step_pairs(lake: Lake, name: str, v1: int, v2: int) -> tuple[tuple[str, int | None, int | None], ...]:
    first, second = ({r.name: r.rows_out for r in committed_reports(lake, name, v)} for v in (v1, v2))
    return tuple((step, first.get(step), second.get(step)) for step in dict.fromkeys([*first, *second]))


def _count(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"


def _lines(found: Provenance, depth: int) -> list[str]:
    pad = "  " * depth
    lines = [f"{pad}{found.table} row {found.row}: {_short(found.values)}"]
    for step, name, ids in found.steps:
        notes = [note for note in found.notes if note.step == step]
        lines.append(f"{pad}  <- {step} {name}" + (f", from {len(ids)} rows" if len(ids) > 1 else ""))
        lines += [f"{pad}       {note.kind}: {_short(note.values)}" for note in notes[:20]]
        lines += [f"{pad}       ... {len(notes) - 20} more"] if len(notes) > 20 else []
    for source in found.sources:
        lines.append(f"{pad}  <- {source.table} row {source.row}: {_short(source.values)}")
        if source.further is not None:
            lines += _lines(source.further, depth + 2)
        else:
            where = "" if source.place is None else f"row {source.place} "
            lines += [f"{pad}       {where}of {file}" for file in source.files]
    return lines


def _short(values: Mapping[str, Value]) -> str:
    text = ", ".join(f"{name}={value!r}" for name, value in values.items() if name != ROW)
    return text if len(text) <= 300 else text[:297] + "..."
