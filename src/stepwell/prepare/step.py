"""One step of a preparation: fitted on training rows only, then applied; every row that enters is accounted for.

Each table has an `int64` column `_row`, the row's id. It belongs to the source's key and stays the same through every
step; a step that makes new rows (pieces of a text, a merged entity) gives them new ids and says from which rows they
come. So `in = out + quarantined`, where a row that went into another counts as out, holds for every step, and
`check_rows` refuses a step for which it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError
from stepwell.core.state import Json
from stepwell.storage import Table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROW = "_row"
INPUT = "input"
"""What a step's main table is called."""
SPLIT = "split"
"""The column that says which part of the data a row belongs to; fitted steps see its training rows."""
TRAIN = "train"
PARENTS = pa.schema([(ROW, pa.int64()), ("_parent", pa.int64()), ("_source", pa.string())])
Sees: TypeAlias = Literal["row", "past", "all"]


@dataclass(frozen=True)
class Rows:
    """What a step gives.

    Args:
        out: The rows that go on, with `_row`, each id once.
        parents: Which rows an output row comes from: `_row`, `_parent` and `_source`, the name of the table that
            `_parent` belongs to (`"input"`, or one of the step's other tables). A row that is not listed is the input's
            row of the same id; a row that is listed lists all its parents. None: no row is listed.
        quarantine: The rows that were taken out: `_row`, `reason` (text), and the row's columns. None: no row was.
        notes: Ordinary tables that say why, by name, with `_row` first: votes, repairs, spans, pairs, violations.
    """

    out: pa.Table
    parents: pa.Table | None = None
    quarantine: pa.Table | None = None
    notes: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """What a step learnt from the training rows; saved beside the data and needed again when a model is served.

    Args:
        values: Numbers and text.
        tables: Larger parts: vocabularies, codebooks.
    """

    values: Mapping[str, Json] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


NOTHING = Fitted()


@dataclass(frozen=True)
class Keyed:
    """A table of the lake whose rows get their ids from a key.

    Args:
        table: The table; if it has `_row`, that is kept.
        key: The columns of the key; none: the whole row is its key.
    """

    table: Table
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Rows that can be read again and again, a batch at a time.

    Args:
        schema: The columns.
        start: Starts a pass.
    """

    schema: pa.Schema
    start: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.start()

    def read(self) -> pa.Table:
        """Return all rows in memory."""
        return pa.Table.from_batches(self.start(), self.schema)


@runtime_checkable
class Step(Protocol):
    """One declarative change of a table: a frozen dataclass whose fields are all that shapes its result.

    `sees` says what an output row may depend on: its own input row (`"row"`, applied batch by batch), rows that are not
    later than itself (`"past"`), or any row (`"all"`). Both of the others get the whole table. What is declared `"row"`
    or `"past"` is tried, and refused with a `LeakError` if it looks further.
    """

    @property
    def name(self) -> str:
        """What the plan calls it, such as `"expect"`."""

    @property
    def sees(self) -> Sees: ...

    @property
    def fits(self) -> bool:
        """Whether `fit` must be called, with training rows only, before `apply`."""

    @property
    def others(self) -> Mapping[str, Keyed]:
        """Further tables of the lake, by the names under which `apply` gets them."""

    def fit(self, train: Stream) -> Fitted:
        """Learn from the training rows."""

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Return what becomes of `tables["input"]`."""


@dataclass(frozen=True)
class Query:
    """A step as SQL over views named `input` and as the step's other tables.

    Args:
        out: Selects the rows that go on, with `_row`.
        quarantine: Selects the rows that are taken out, with `_row` and `reason`; empty if none are.
        parents: Selects `_row`, `_parent`, `_source`; empty if no row is listed.
        notes: Further tables by name.
        touches: Columns of the input that may have other values in `out`; None: any may.
        base: Selects rows that the other selects see as the table `base`, worked out once; empty if none.
    """

    out: str
    quarantine: str = ""
    parents: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    touches: tuple[str, ...] | None = None
    base: str = ""


@runtime_checkable
class SqlStep(Protocol):
    """A step that DuckDB runs within its memory limit, spilling to disk; nothing passes through Python."""

    @property
    def name(self) -> str: ...

    @property
    def sees(self) -> Sees: ...

    @property
    def others(self) -> Mapping[str, Keyed]: ...

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return the SQL for an input of this schema.

        Args:
            schema: The input's columns.
            connection: Sees the tables, for steps that look before they write; None to show what would be run.
        """


@dataclass(frozen=True)
class Report:
    """What a step did with its rows.

    Args:
        name: The step.
        rows_in: Rows that entered.
        rows_out: Rows that went on.
        dropped: Quarantined rows by reason.
        changed: Rows of an old id of which an old column has another value.
        made: Output rows that have an id of their own.
        seconds: Wall seconds, reading and writing included.
        size_bytes: Bytes of what went on, as Arrow holds it.
    """

    name: str
    rows_in: int = 0
    rows_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    changed: int = 0
    made: int = 0
    seconds: float = 0.0
    size_bytes: int = 0

    @property
    def merged(self) -> int:
        """Rows that went on as parents of others only: `in = (out - made) + dropped + merged`."""
        return max(0, self.rows_in - (self.rows_out - self.made) - sum(self.dropped.values()))

    def __str__(self) -> str:
        drops = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
        parts = [f"{self.rows_in:,} in", f"{self.rows_out:,} out"]
        parts += [f"dropped {drops}"] if drops else []
        parts += [f"{self.merged:,} went into others"] if self.merged else []
        parts += [f"{self.changed:,} changed"] if self.changed else []
        parts += [f"{self.made:,} made"] if self.made else []
        return f"{self.name}: {', '.join(parts)}"


def parents_table(
    rows: npt.NDArray[np.int64], parents: npt.NDArray[np.int64], source: str = INPUT, schema: pa.Schema = PARENTS
) -> pa.Table:
    """Return pairs of ids as a parents table."""
    names = pa.array([source], pa.string()).take(pa.array(np.zeros(len(rows), np.int64)))
    return pa.table([pa.array(rows, pa.int64()), pa.array(parents, pa.int64()), names], schema=schema)


def keep(table: pa.Table, mask: npt.NDArray[np.bool_], reason: str) -> Rows:
    """Keep the rows where `mask` is true and quarantine the others for one reason."""
    gone = table.filter(pa.array(~mask))
    reasons = pa.array([reason] * len(gone), pa.string())
    return Rows(table.filter(pa.array(mask)), quarantine=gone.add_column(1, "reason", reasons))


def check_rows(
    name: str,
    given: npt.NDArray[np.int64],
    out: npt.NDArray[np.int64],
    gone: npt.NDArray[np.int64],
    parents: pa.Table | None = None,
) -> int:
    """Check that a step accounted for every row, and return how many output rows have an id of their own.

    Args:
        name: The step, for the message.
        given: The ids that entered.
        out: The ids that it gave.
        gone: The ids that it quarantined.
        parents: What it says of where rows come from.

    Raises:
        DataError: If a row vanished without a reason, an id stands twice, an output row has no origin, or a row was
            both kept and quarantined.

    Cost: a sort of the ids.
    """
    if parents is None and not len(gone) and np.array_equal(given, out):
        return 0
    both = np.sort(np.concatenate([out, np.unique(gone)]))
    if parents is None and np.array_equal(both, np.sort(given)):
        return 0
    listed, used = _listed(name, parents)
    ordered = np.sort(out)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise _unaccounted(
            name, f"gave the id {twice[0]} twice", "each id once", "list new rows with new ids in parents"
        )
    plain = np.setdiff1d(out, listed)
    checks: tuple[tuple[npt.NDArray[np.int64], str, str], ...] = (
        (
            np.setdiff1d(listed, out),
            "lists parents of row {}, which it does not give",
            "give the row or drop its parents",
        ),
        (np.setdiff1d(plain, given), "gave row {}, which did not enter and has no parents", "list it in parents"),
        (np.setdiff1d(used, given), "names row {} as a parent, which did not enter", "name rows of the input"),
        (np.setdiff1d(gone, given), "quarantined row {}, which did not enter", "quarantine rows of the input"),
        (np.intersect1d(plain, gone), "both gave and quarantined row {}", "do one of the two"),
        (
            np.setdiff1d(given, np.concatenate([plain, used, gone])),
            "lost row {} without a reason",
            "put it into quarantine with a reason, or list it as a parent",
        ),
    )
    for bad, problem, fix in checks:
        if len(bad):
            raise _unaccounted(name, problem.format(bad[0]), "in = out + quarantined, for every row", fix)
    return len(listed) - int(np.isin(listed, given).sum())


def ids_of(name: str, table: pa.Table) -> npt.NDArray[np.int64]:
    """Return a table's `_row`.

    Raises:
        DataError: If there is none, or it is no int64 without nulls.
    """
    if ROW not in table.schema.names:
        fix = "keep the column `_row` as it is"
        raise DataError(f"step {name}", "gave a table without `_row`", "an int64 column `_row` in every table", fix)
    column = table.column(ROW)
    if column.type != pa.int64() or column.null_count:
        problem = f"gave `_row` as {column.type} with {column.null_count} nulls"
        raise DataError(f"step {name}", problem, "int64 without nulls", "keep the column `_row` as it is")
    found: npt.NDArray[np.int64] = column.to_numpy()
    return found


def _listed(name: str, parents: pa.Table | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the ids that have parents, and the input's ids that are one."""
    if parents is None or not len(parents):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if set(parents.schema.names) != set(PARENTS.names):
        fix = "see `parents_table`"
        raise DataError(f"step {name}", f"gave parents with {parents.schema.names}", ", ".join(PARENTS.names), fix)
    own = parents.filter(pc.equal(parents.column("_source"), INPUT))
    return np.unique(parents.column(ROW).to_numpy()), np.unique(own.column("_parent").to_numpy())


def _unaccounted(name: str, problem: str, allowed: str, fix: str) -> DataError:
    return DataError(f"step {name}", problem, allowed, fix)


UserFunction: TypeAlias = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Record batch in, record batch out; `_row` comes along and must stay."""
