"""A preparation's result as a version of the lake, with the side tables that answer questions about it.

Side tables are committed first and named by the main commit, so a reader sees data and answers of one run or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

from stepwell.core import PlanNode
from stepwell.core.errors import DataError
from stepwell.prepare.cache import LISTED, QUARANTINE, Parts, Stored, note_name
from stepwell.prepare.step import INPUT, Fitted, Keyed, Report, SqlStep, Step
from stepwell.storage import Lake, Table
from stepwell.storage.files import Rows as LakeRows
from stepwell.storage.lineage import Input, Origin

STEPS = pa.schema(
    [
        ("step", pa.int32()),
        ("name", pa.string()),
        ("key", pa.string()),
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("dropped", pa.string()),
        ("changed", pa.int64()),
        ("made", pa.int64()),
        ("seconds", pa.float64()),
        ("size_bytes", pa.int64()),
        ("sees", pa.string()),
        ("inputs", pa.string()),
        ("detail", pa.string()),
    ]
)
FITTED = pa.schema(
    [
        ("step", pa.int32()),
        ("name", pa.string()),
        ("part", pa.string()),
        ("values", pa.string()),
        ("arrow", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Prepared:
    """A committed preparation.

    Args:
        table: The version in the lake.
        plan: The tree, measured beside predicted.
        reports: What each step did, the reading first.
        made: Whether this commit made the version; False if it was there already.
    """

    table: Table
    plan: PlanNode
    reports: tuple[Report, ...]
    made: bool

    def __str__(self) -> str:
        lines = [f"{self.table.name}@{self.table.version}: {len(self.table):,} rows"]
        return "\n".join([*lines, *(f"  {report}" for report in self.reports)])


def commit_version(
    lake: Lake,
    name: str,
    source: Keyed,
    steps: Sequence[Step | SqlStep],
    stored: Sequence[Stored],
    metadata: Mapping[str, str],
    expected: int,
) -> int:
    """Commit what the last step gave, and beside it what all of them said.

    Args:
        lake: The lake.
        name: The table.
        source: What was read.
        steps: What was done.
        stored: What the source and each step gave.
        metadata: Text for the commit.
        expected: The version that the table must still have; -1: there must be none.
    """
    tables = {part: lake.commit_table(part, rows) for part, rows in _sides(name, source, steps, stored)}
    read = [source.table, *(keyed.table for step in steps for keyed in step.others.values())]
    inputs = tuple(dict.fromkeys(Input(table.name, table.version) for table in read))
    origin = Origin("prepare", inputs, {"steps": [step.name for step in steps]})
    last = stored[-1]
    rows = LakeRows(name, last.schema, lambda columns: last.batches(columns=columns), last.report.rows_out)
    texts = {**metadata, "tables": json.dumps(tables)}
    return lake.commit_table(name, rows, "replace", texts, origin=origin, expected=expected)


def _sides(
    name: str, source: Keyed, steps: Sequence[Step | SqlStep], stored: Sequence[Stored]
) -> Iterator[tuple[str, LakeRows]]:
    yield f"{name}.steps", _rows_of(f"{name}.steps", _step_rows(source, steps, stored))
    learnt = [row for place, one in enumerate(stored) for row in _fitted_rows(place, one)]
    if learnt:
        yield f"{name}.fitted", _rows_of(f"{name}.fitted", pa.Table.from_pylist(learnt, FITTED))
    notes = dict.fromkeys(note for one in stored for note in one.notes)
    parts = {QUARANTINE: QUARANTINE, LISTED: LISTED, **{note: note_name(note) for note in notes}}
    for kind, part in parts.items():
        having = [(place, one) for place, one in enumerate(stored) if part in one.parts]
        if having or kind in (QUARANTINE, LISTED):
            yield f"{name}.{kind}", _joined(f"{name}.{kind}", having, part)


def _step_rows(source: Keyed, steps: Sequence[Step | SqlStep], stored: Sequence[Stored]) -> pa.Table:
    rows = []
    for place, one in enumerate(stored):
        report = one.report
        step = steps[place - 1] if place else None
        tables = {INPUT: source} if step is None else step.others
        inputs = {name: [f"{k.table.name}@{k.table.version}", list(k.key)] for name, k in tables.items()}
        rows.append(
            {
                "step": place,
                "name": report.name,
                "key": one.key,
                "rows_in": report.rows_in,
                "rows_out": report.rows_out,
                "dropped": json.dumps(dict(report.dropped), sort_keys=True),
                "changed": report.changed,
                "made": report.made,
                "seconds": report.seconds,
                "size_bytes": report.size_bytes,
                "sees": step.sees if step else "row",
                "inputs": json.dumps(inputs),
                "detail": ", ".join(source.key) if step is None else _detail(step, stored[place - 1].schema),
            }
        )
    return pa.Table.from_pylist(rows, STEPS)


def _fitted_rows(place: int, one: Stored) -> Iterator[dict[str, object]]:
    base = {"step": place, "name": one.report.name}
    if one.fitted.values:
        yield {**base, "part": "", "values": json.dumps(dict(one.fitted.values))}
    for part, table in one.fitted.tables.items():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        yield {**base, "part": part, "arrow": sink.getvalue().to_pybytes()}


def _detail(step: Step | SqlStep, schema: pa.Schema) -> str:
    return step.query(schema).out if isinstance(step, SqlStep) else repr(step)[:10_000]


def _rows_of(where: str, table: pa.Table) -> LakeRows:
    return LakeRows(where, table.schema, lambda columns: iter(table.select(columns).to_batches()), len(table))


_EMPTY = {
    QUARANTINE: pa.schema([("_row", pa.int64()), ("step", pa.int32()), ("reason", pa.string())]),
    LISTED: pa.schema([("_row", pa.int64()), ("step", pa.int32()), ("_parent", pa.int64()), ("_source", pa.string())]),
}


def _joined(where: str, having: list[tuple[int, Stored]], part: str) -> LakeRows:
    if not having:
        return _rows_of(where, _EMPTY[part].empty_table())
    parts = Parts(having, part)
    return LakeRows(where, parts.schema, parts.batches)


def committed_reports(lake: Lake, name: str, version: int | None = None) -> tuple[Report, ...]:
    """Return what each step of a committed preparation did, the reading first.

    Raises:
        UnknownNameError: If there is no such table.
        DataError: If it was not made by a preparation.
    """
    steps = side(lake, name, "steps", version)
    if steps is None:
        fix = "see lake.lineage(name) for how it was made"
        raise DataError(name, "was not made by a preparation", "a table that Preparation.commit made", fix)
    names = [field.name for field in fields(Report)]
    rows = steps.to_arrow([*names, "step"]).sort_by("step").select(names).to_pylist()
    return tuple(Report(**{**row, "dropped": json.loads(row["dropped"])}) for row in rows)


def committed_fitted(lake: Lake, name: str, version: int | None = None) -> dict[int, Fitted]:
    """Return what the fitted steps of a committed preparation learnt, by their numbers."""
    table = side(lake, name, "fitted", version)
    found: dict[int, Fitted] = {}
    for row in [] if table is None else table.to_arrow().to_pylist():
        known = found.get(row["step"], Fitted())
        if row["part"]:
            part = {row["part"]: pa.ipc.open_stream(row["arrow"]).read_all()}
            found[row["step"]] = Fitted(known.values, {**known.tables, **part})
        else:
            found[row["step"]] = Fitted(json.loads(row["values"]), known.tables)
    return found


def side(lake: Lake, name: str, part: str, version: int | None = None) -> Table | None:
    """Return a side table at the version that a commit names, or None if it has none."""
    tables = json.loads(lake.metadata(name, version).get("tables", "{}"))
    known = tables.get(f"{name}.{part}")
    return None if known is None else lake.table(f"{name}.{part}", known)
