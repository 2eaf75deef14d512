"""A prepared table as one page: what each step did, what the data look like, who labelled them, what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from stepwell.prepare.answers import diff, provenance
from stepwell.prepare.commit import committed_fitted, committed_reports, side
from stepwell.prepare.compressing import codec_rows
from stepwell.prepare.step import ROW, SPLIT, Report
from stepwell.storage import Lake, Table
from stepwell.storage.query import connect, quoted, show
from stepwell.view import Fact, Page, Preformatted, Section, Text, charts
from stepwell.view import Table as Grid
from stepwell.view.page import Block, Cell

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CHARTS, _SAMPLE, _LISTED = 8, 20_000, 30


def report(lake: Lake, name: str, path: str | Path, version: int | None = None) -> Path:
    """Write the page of a prepared table and return its path.

    Args:
        lake: The lake.
        name: The table.
        path: Where the page goes; one HTML file that needs nothing else.
        version: The table's version; None for the newest.

    Raises:
        UnknownNameError: If there is no such table.
        DataError: If it was not made by a preparation.

    Cost:
        Two passes over the table in DuckDB, and those of `diff` if there is a version before it.
    """
    return report_page(lake, name, version).write(path)


def report_page(lake: Lake, name: str, version: int | None = None) -> Page:
    """Return the page; see `report`."""
    table = lake.table(name, version)
    reports = committed_reports(lake, name, table.version)
    connection = connect()
    try:
        show(connection, "prepared", table)
        sections = [Section("What was done", tuple(_steps(reports)))]
        sections += _optional("What was taken out", _quarantine(lake, name, table.version, reports))
        sections += _optional("What was violated", _violations(lake, name, table.version))
        sections += _optional("Who labelled", _labels(lake, table, connection))
        sections += _optional("What was linked", _linkage(lake, name, table.version))
        sections += _optional("What was repeated, far out, or leaked", _sifted(lake, name, table.version))
        sections += _optional("How columns were matched", _matched(lake, name, table.version))
        sections += _optional("How numbers are held", _held(lake, name, table.version))
        sections.append(Section("What the data look like", tuple(_profile(table, connection))))
        sections.append(Section("Where it comes from", tuple(_lineage(lake, table))))
        sections += _optional("What changed", _changes(lake, name, table.version))
    finally:
        connection.close()
    dropped = sum(sum(one.dropped.values()) for one in reports)
    facts = [
        Fact("rows", len(table), f"of {reports[0].rows_out:,} read"),
        Fact("taken out", dropped, "with a reason"),
        Fact("columns", len(table.schema) - 1, "beside the row's id"),
        Fact("steps", len(reports) - 1, f"{sum(one.seconds for one in reports):.3g} s"),
    ]
    return Page(f"{name}@{table.version}", "A prepared table and how it came to be.", facts, sections)


def _optional(title: str, blocks: Iterator[Block]) -> list[Section]:
    found = tuple(blocks)
    return [Section(title, found)] if found else []


def _grid(table: pa.Table, caption: str = "", most: int = _LISTED) -> Grid:
    shown = table.slice(0, most)
    rows = [[_cell(value) for value in row.values()] for row in shown.to_pylist()]
    more = f" (the first {most} of {len(table):,})" if len(table) > most else ""
    return Grid(table.schema.names, rows, caption + more)


def _cell(value: object) -> Cell:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _steps(reports: Sequence[Report]) -> Iterator[Block]:
    rows: list[list[Cell]] = [
        [
            *(place, one.name, one.rows_in, one.rows_out, sum(one.dropped.values())),
            *(one.merged, one.changed, one.made, one.seconds),
        ]
        for place, one in enumerate(reports)
    ]
    columns = ["step", "what", "in", "out", "taken out", "went into others", "changed", "new ids", "seconds"]
    yield Grid(columns, rows, "Steps, in order")
    names = [f"{place} {one.name[:40]}" for place, one in enumerate(reports)]
    yield charts.bars("Rows that leave each step", [charts.Series("rows", names, [one.rows_out for one in reports])])


def _quarantine(lake: Lake, name: str, version: int, reports: Sequence[Report]) -> Iterator[Block]:
    found: list[list[Cell]] = [
        [place, one.name, reason, count] for place, one in enumerate(reports) for reason, count in one.dropped.items()
    ]
    if not found:
        return
    yield Grid(["step", "what", "reason", "rows"], sorted(found, key=lambda row: -int(str(row[3]))), "Reasons")
    table = side(lake, name, "quarantine", version)
    if table is not None:
        yield _grid(table.head(10), "Some of these rows")


def _violations(lake: Lake, name: str, version: int) -> Iterator[Block]:
    summary = side(lake, name, "constraints", version)
    if summary is not None:
        yield _grid(summary.to_arrow(["step", "constraint", "holds", "violations", "drift"]), "Constraints")
    found = side(lake, name, "violations", version)
    if found is not None:
        yield _grid(found.head(10), "Some violations")


def _labels(lake: Lake, table: Table, connection: DuckDBPyConnection) -> Iterator[Block]:
    sources = side(lake, table.name, "label_sources", table.version)
    if sources is not None:
        yield _grid(sources.to_arrow().drop_columns([ROW]), "Sources of labels, as the engine judges them")
    if "label" not in table.schema.names:
        return
    part = SPLIT if SPLIT in table.schema.names else "'all'"
    counts = connection.sql(
        f"select {part}, label::varchar, count(*) from prepared group by 1, 2 order by 1, 2"
    ).fetchall()
    labels = list(dict.fromkeys(str(row[1]) for row in counts))
    if len(labels) <= 50:
        held = {(row[0], str(row[1])): row[2] for row in counts}
        parts = list(dict.fromkeys(row[0] for row in counts))
        series = [charts.Series(str(p), labels, [held.get((p, label), 0) for label in labels]) for p in parts]
        yield charts.bars("Rows of each label", series)
    if "label_prob" in table.schema.names:
        found = _sample(connection, "label_prob")
        yield charts.distribution("How sure the labels are", {"probability": found})


def _linkage(lake: Lake, name: str, version: int) -> Iterator[Block]:
    threshold, pairs = side(lake, name, "threshold", version), side(lake, name, "pairs", version)
    if threshold is None:
        return
    for row in threshold.to_arrow().to_pylist():
        yield Text(f"Pairs count as matches from a probability of {row['threshold']:.3f} ({row['why']}).")
    if pairs is not None:
        probability = pairs.to_arrow(["probability", "match"])
        groups = {
            label: probability.filter(pc.equal(probability.column("match"), kind)).column("probability").to_numpy()
            for label, kind in (("match", True), ("no match", False))
        }
        yield charts.distribution("Probability of the pairs that might be matches", groups, x="probability")
    for part, caption in (("blocks", "Blocks: pairs predicted and compared"), ("linkage", "What the model learnt")):
        found = side(lake, name, part, version)
        if found is not None:
            yield _grid(found.to_arrow().drop_columns([ROW]), caption)


def _sifted(lake: Lake, name: str, version: int) -> Iterator[Block]:
    for part, caption in (
        ("duplicates", "Rows that others stand for: `_row` was kept for `other`"),
        ("outliers", "Rows whose values are rarest"),
        ("leaks", "Rows that share an entity or a text across the split"),
    ):
        found = side(lake, name, part, version)
        if found is not None:
            yield _grid(found.to_arrow(), caption, most=10)


def _matched(lake: Lake, name: str, version: int) -> Iterator[Block]:
    found = side(lake, name, "schema", version)
    if found is not None:
        yield _grid(found.to_arrow().drop_columns([ROW]), "Columns that may mean the same, the best score first")


def _held(lake: Lake, name: str, version: int) -> Iterator[Block]:
    learnt = committed_fitted(lake, name, version).values()
    rows = [row for one in learnt if "codecs" in one.values for row in codec_rows(str(one.values["codecs"]))]
    if rows:
        yield _grid(pa.Table.from_pylist(rows), "Codecs, with their errors on the training rows", most=100)
    found = side(lake, name, "beyond", version)
    if found is not None:
        yield _grid(found.head(10), "Some values that are further from their code")


def _profile(table: Table, connection: DuckDBPyConnection) -> Iterator[Block]:
    names = [name for name in table.schema.names if name != ROW]
    numeric = [name for name in names if _is_number(table.schema.field(name).type)]
    flat = [name for name in names if not pa.types.is_nested(table.schema.field(name).type)]
    parts = []
    for name in names:
        column = quoted(name)
        distinct = f"approx_count_distinct({column})" if name in flat else "null"
        mean = f"avg({column})::double" if name in numeric else "null"
        ends = f"min({column})::varchar, max({column})::varchar" if name in flat else "null, null"
        parts.append(f"count(*) - count({column}), {distinct}, {mean}, {ends}")
    values = connection.sql(f"select {', '.join(parts)} from prepared").fetchall()[0] if parts else ()
    rows: list[list[Cell]] = [
        [name, str(table.schema.field(name).type), *(_short(value) for value in values[5 * i : 5 * i + 5])]
        for i, name in enumerate(names)
    ]
    yield Grid(["column", "type", "missing", "distinct", "mean", "least", "greatest"], rows, "Columns")
    split = SPLIT in table.schema.names
    for name in numeric[:_CHARTS]:
        if split:
            found = connection.sql(f"select distinct {SPLIT} from prepared order by 1").fetchall()
            groups = {str(p): _sample(connection, name, f"{SPLIT} = '{p}'") for (p,) in found}
        else:
            groups = {name: _sample(connection, name)}
        yield charts.distribution(name, groups, x=name)


def _sample(connection: DuckDBPyConnection, name: str, where: str = "true") -> list[float]:
    """Return up to 20,000 values of a column: those of the rows whose ids are least, so the same every time."""
    column = quoted(name)
    query = (
        f'select {column}::double from prepared where {where} and {column} is not null order by "{ROW}" limit {_SAMPLE}'
    )
    return [float(row[0]) for row in connection.sql(query).fetchall()]


def _lineage(lake: Lake, table: Table) -> Iterator[Block]:
    yield Preformatted("\n".join(_tree(lake, table.name, table.version, 0)), "lineage")
    head = table.head(1)
    if len(head):
        found = provenance(lake, table.name, int(head.column(ROW)[0].as_py()), table.version)
        yield Preformatted(str(found), "one row's provenance")


def _tree(lake: Lake, name: str, version: int | None, depth: int) -> Iterator[str]:
    label = name if version is None else f"{name}@{version}"
    known = (
        [one for one in lake.lineage(name) if one.version == version] if name in lake and version is not None else []
    )
    step = f"  by {known[-1].origin.step}, code {known[-1].origin.code_version}" if known else ""
    yield "  " * depth + ("<- " if depth else "") + label + step
    for one in known[-1].origin.inputs if known and depth < 20 else ():
        yield from _tree(lake, one.name, one.version, depth + 1)


def _changes(lake: Lake, name: str, version: int) -> Iterator[Block]:
    before = [one.version for one in lake.versions(name) if one.version < version and one.readable]
    prepared = [number for number in before if "prepare" in lake.metadata(name, number)]
    if prepared:
        yield Preformatted(str(diff(lake, name, prepared[-1], version)), "difference to the version before")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _short(value: object) -> str | int | float | None:
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
