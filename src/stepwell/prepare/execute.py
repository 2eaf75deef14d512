"""Runs steps one after the other: batch by batch, as SQL inside DuckDB, or on the whole table if it fits the budget.

What a step gave is looked up under a key of everything it depends on before it is run, so a run that was killed goes on
behind its last whole step, and a changed step runs again with all that follow it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, StepwellError
from stepwell.prepare.cache import LISTED, OUT, QUARANTINE, StepWriter, Stored, find, note_name, writing
from stepwell.prepare.compare import changed_rows
from stepwell.prepare.fingerprint import fingerprint, package_code
from stepwell.prepare.lookahead import ROW_SAMPLE, check_past, check_row_by_row
from stepwell.prepare.map import quoted_name
from stepwell.prepare.on_ray import batches_on_ray
from stepwell.prepare.row_ids import ids_schema, with_ids
from stepwell.prepare.scratch import scratch
from stepwell.prepare.step import (
    INPUT,
    NOTHING,
    ROW,
    SPLIT,
    TRAIN,
    Fitted,
    Keyed,
    Query,
    Report,
    Rows,
    SqlStep,
    Step,
    Stream,
    check_rows,
    ids_of,
)
from stepwell.storage.query import connect

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS = 65_536
BASE = "base"


@dataclass(frozen=True)
class Runner:
    """Runs steps, or finds what they gave before.

    Args:
        root: Where results are kept.
        budget_bytes: Memory that a step may use for its tables.
        time: The column that says when a row was known, or "" if there is none.
        tables: Where tables of the lake are kept, if elsewhere.
        on: Where steps that see one row at a time are run: `"here"`, or on the workers of `"ray"`.
    """

    root: Path
    budget_bytes: int = 1 << 30
    time: str = ""
    tables: Path | None = None
    on: Literal["here", "ray"] = "here"

    def read(self, keyed: Keyed) -> Stored:
        """Return a table of the lake with ids, copied once."""
        key, root = read_key(keyed), self.tables or self.root
        return find(root, key) or self._read(keyed, key, root)

    def _read(self, keyed: Keyed, key: str, root: Path) -> Stored:
        table, begin = keyed.table, time.perf_counter()
        name = f"read {table.name}@{table.version}"
        with writing(root, key, name) as writer:
            writer.add(OUT, ids_schema(table).empty_table())
            for batch in with_ids(table, keyed.key):
                writer.add(OUT, pa.Table.from_batches([batch]))
            rows = writer.rows[OUT]
            seconds = time.perf_counter() - begin
            writer.report(Report(name, rows, rows, made=rows, seconds=seconds, size_bytes=writer.size_bytes))
        return _found(root, key, name)

    def run(self, step: Step | SqlStep, given: Stored) -> Stored:
        """Return what a step makes of its input; it runs only if that is not known.

        Raises:
            DataError: If the step fails, loses a row, or does not fit the budget.
            LeakError: If it looks further than it declares.
            DiskFullError: If there is no room.
        """
        key = step_key(step, given.key)
        known = find(self.root, key)
        if known is not None:
            return known
        others = {name: self.read(keyed) for name, keyed in step.others.items()}
        with writing(self.root, key, step.name) as writer:
            run = _Run(self, step.name, given, others, writer)
            if isinstance(step, SqlStep):
                run.sql(step)
            else:
                run.arrow(step)
            run.finish()
        return _found(self.root, key, step.name)


def read_key(keyed: Keyed) -> str:
    """Return the key of a table with ids."""
    return fingerprint("read", package_code(), keyed.table, keyed.key)


def step_key(step: Step | SqlStep, given: str) -> str:
    """Return the key of a step's result on an input of key `given`."""
    others = {name: read_key(keyed) for name, keyed in step.others.items()}
    return fingerprint("step", package_code(*getattr(step, "engines", ())), step, given, others)


def training_rows(given: Stored) -> Stream:
    """Return the rows that a step may be fitted on: those of the training period, or all if there is no split."""
    split = SPLIT in given.schema.names

    def start() -> Iterator[pa.RecordBatch]:
        for batch in given.batches():
            yield batch.filter(pc.equal(batch.column(SPLIT), TRAIN)) if split else batch

    return Stream(given.schema, start)


def _found(root: Path, key: str, name: str) -> Stored:
    stored = find(root, key)
    if stored is None:
        fix = "run it again; somebody deletes the cache meanwhile"
        raise DataError(f"step {name}", "left no result", "a cache that stays while it is used", fix)
    return stored


@dataclass
class _Run:
    """One run of one step."""

    runner: Runner
    name: str
    given: Stored
    others: Mapping[str, Stored]
    writer: StepWriter
    changed: int = 0
    made: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    begin: float = field(default_factory=time.perf_counter)

    def arrow(self, step: Step) -> None:
        """Apply a step to batches or to the whole table; what fails inside it is named after it."""
        try:
            if step.sees == "row":
                self.batches(step)
            else:
                self.table(step)
        except (StepwellError, OSError, MemoryError):
            raise
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
            raise DataError(
                f"step {self.name}", problem, "rows that it can work on", "correct it or its input"
            ) from error

    # Batch by batch -------------------------------------------------------------------------------------------------

    def batches(self, step: Step) -> None:
        """Apply a step to batches that fit the budget."""
        fitted = self._fit(step)
        tables = {name: stored.read() for name, stored in self.others.items()}
        per_row = max(1, self.given.report.size_bytes // max(1, self.given.report.rows_out))
        rows = int(np.clip(self.runner.budget_bytes // (16 * per_row), 1, BATCH_ROWS))
        first = next(self.given.batches(rows=ROW_SAMPLE), None)
        if first is None:
            empty = self.given.schema.empty_table()
            self._take(step.apply({INPUT: empty, **tables}, fitted), empty)
            return
        check_row_by_row(
            step.name, pa.Table.from_batches([first]), lambda part: step.apply({INPUT: part, **tables}, fitted).out
        )
        if self.runner.on == "ray":
            for table, found in batches_on_ray(step, self.given.path(), rows, tables, fitted):
                self._take(found, table)
        else:
            for batch in self.given.batches(rows=rows):
                table = pa.Table.from_batches([batch])
                self._take(step.apply({INPUT: table, **tables}, fitted), table)
        if self.made:
            self._check_distinct()

    def _fit(self, step: Step) -> Fitted:
        fitted = step.fit(training_rows(self.given)) if step.fits else NOTHING
        self.writer.fitted(fitted)
        return fitted

    def _take(self, rows: Rows, table: pa.Table) -> None:
        """Check and write what a step made of some rows."""
        out = ids_of(self.name, rows.out)
        gone = np.empty(0, np.int64) if rows.quarantine is None else ids_of(self.name, rows.quarantine)
        self.made += check_rows(self.name, table.column(ROW).to_numpy(), out, gone, rows.parents)
        self.changed += changed_rows(table, rows.out)
        self.writer.add(OUT, rows.out)
        if rows.quarantine is not None and len(rows.quarantine):
            self._count(rows.quarantine)
            self.writer.add(QUARANTINE, rows.quarantine)
        if rows.parents is not None and len(rows.parents):
            self.writer.add(LISTED, rows.parents)
        for note, noted in rows.notes.items():
            if len(noted):
                self.writer.add(note_name(note), noted)

    def _count(self, quarantine: pa.Table) -> None:
        if "reason" not in quarantine.schema.names:
            raise DataError(f"step {self.name}", "quarantined rows without a reason", "a column `reason`", "add it")
        for entry in pc.value_counts(quarantine.column("reason")).to_pylist():
            self.dropped[str(entry["values"])] += entry["counts"]

    def _check_distinct(self) -> None:
        self.writer.close()
        ids = pa.parquet.read_table(self.writer.folder / "out.parquet", columns=[ROW]).column(ROW).to_numpy()
        if len(np.unique(ids)) != len(ids):
            fix = "make the ids of new rows from those of their parents"
            raise DataError(f"step {self.name}", "gave one id in two batches", "each id once", fix)

    # The whole table ------------------------------------------------------------------------------------------------

    def table(self, step: Step) -> None:
        """Apply a step to the whole table."""
        size = sum(stored.report.size_bytes for stored in (self.given, *self.others.values()))
        if size > self.runner.budget_bytes // 2:
            problem = f"needs its tables in memory, {size:,} bytes"
            allowed = f"half the budget, {self.runner.budget_bytes // 2:,} bytes"
            fix = "pass a larger budget=, or leave out columns and rows before it"
            raise DataError(f"step {self.name}", problem, allowed, fix)
        fitted = self._fit(step)
        table = self.given.read()
        tables = {name: stored.read() for name, stored in self.others.items()}
        if step.sees == "past":
            check_past(step, table, tables, fitted, self.runner.time)
        self._take(step.apply({INPUT: table, **tables}, fitted), table)

    # Inside DuckDB --------------------------------------------------------------------------------------------------

    def sql(self, step: SqlStep) -> None:
        """Let DuckDB run a step from file to file."""
        import duckdb

        connection = connect(f"{self.runner.budget_bytes // (1 << 10)}KiB")
        try:
            _view(connection, INPUT, self.given.path())
            for name, stored in self.others.items():
                _view(connection, name, stored.path())
            query = step.query(self.given.schema, connection)
            if step.sees == "row":
                self._check_sql(query)
            if query.base:
                self._copy(connection, BASE, query.base)
            self._copy(connection, OUT, query.out)
            for part, text in self._parts(query):
                self._copy(connection, part, text)
            self._account(connection, query)
            self.writer.drop(BASE)
        except (duckdb.Error, pa.ArrowInvalid) as error:
            known = ", ".join(self.given.schema.names)
            line = (str(error).strip().splitlines() or [""])[0]
            raise DataError(f"step {self.name}", f"was refused ({line})", f"SQL over {known}", "correct it") from error
        finally:
            connection.close()

    def _check_sql(self, query: Query) -> None:
        """Run a query that says it sees single rows on a few of them, together and apart."""
        connection = scratch()

        def apply(rows: pa.Table) -> pa.Table:
            connection.register(INPUT, rows)
            return connection.sql(query.out).to_arrow_table()

        try:
            first = next(self.given.batches(rows=ROW_SAMPLE), None)
            if first is not None:
                check_row_by_row(self.name, pa.Table.from_batches([first]), apply)
        finally:
            connection.close()

    def _parts(self, query: Query) -> Iterator[tuple[str, str]]:
        yield from ((part, text) for part, text in ((QUARANTINE, query.quarantine), (LISTED, query.parents)) if text)
        yield from ((note_name(name), text) for name, text in query.notes.items())

    def _copy(self, connection: duckdb.DuckDBPyConnection, part: str, text: str) -> None:
        path = self.writer.folder / f"{part}.parquet"
        connection.execute(f"copy ({text}) to '{_text(path)}' (format parquet, compression lz4_raw)").fetchall()
        rows = pa.parquet.read_metadata(path).num_rows
        if rows or part in (OUT, BASE):
            _view(connection, part, path)
            self.writer.rows[part] = rows
        else:
            path.unlink()

    def _account(self, connection: duckdb.DuckDBPyConnection, query: Query) -> None:
        ids = {part: self._ids(part) for part in (OUT, QUARANTINE)}
        parents = pa.parquet.read_table(self.writer.folder / "parents.parquet") if LISTED in self.writer.rows else None
        self.made = check_rows(self.name, self.given.ids(), ids[OUT], ids[QUARANTINE], parents)
        if QUARANTINE in self.writer.rows:
            found = connection.sql("select reason, count(*) from quarantine group by all").fetchall()
            self.dropped.update({str(reason): count for reason, count in found})
        made = pa.parquet.read_schema(self.writer.folder / "out.parquet")
        touched = self.given.schema.names if query.touches is None else query.touches
        both = [name for name in touched if name in made.names and name in self.given.schema.names and name != ROW]
        if both:
            texts = {n: "" if made.field(n).type == self.given.schema.field(n).type else "::varchar" for n in both}
            differ = " or ".join(
                f"a.{quoted_name(name)}{text} is distinct from b.{quoted_name(name)}{text}"
                for name, text in texts.items()
            )
            count = f'select count(*) from input a join out b on a."{ROW}" = b."{ROW}" where {differ}'
            self.changed = int(connection.sql(count).fetchall()[0][0])
        self.writer.size_bytes = _arrow_bytes(self.writer.folder / "out.parquet")

    def _ids(self, part: str) -> npt.NDArray[np.int64]:
        if part not in self.writer.rows:
            return np.empty(0, np.int64)
        return ids_of(self.name, pa.parquet.read_table(self.writer.folder / f"{part}.parquet", columns=[ROW]))

    # The report -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the report."""
        report = Report(
            self.name,
            rows_in=self.given.report.rows_out,
            rows_out=self.writer.rows.get(OUT, 0),
            dropped=dict(self.dropped),
            changed=self.changed,
            made=self.made,
            seconds=time.perf_counter() - self.begin,
            size_bytes=self.writer.size_bytes,
        )
        self.writer.close()
        self.writer.report(report)


def _view(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    connection.execute(f"create view {quoted_name(name)} as from read_parquet('{_text(path)}')").fetchall()


def _text(path: Path) -> str:
    return str(path).replace("'", "''")


def _arrow_bytes(path: Path) -> int:
    """Return about how many bytes a file's rows take in memory, from its first row group."""
    with pa.parquet.ParquetFile(path) as file:
        total = file.metadata.num_rows
        sample = next(file.iter_batches(4096), None)
    return 0 if sample is None else sample.nbytes * total // max(1, sample.num_rows)
