"""Steps that are a user's own function, Arrow batch in and Arrow batch out, or a line of SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from stepwell.core.errors import DataError
from stepwell.prepare.step import NOTHING, ROW, Fitted, Keyed, Query, Rows, Sees, Stream, UserFunction, ids_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Map:
    """A function over record batches; rows that it leaves out are quarantined under its name.

    Args:
        function: Record batch in, record batch out, both with `_row`.
        sees: `"row"` if an output row depends on its own input row only; the function then gets batches of any size.
            `"past"` and `"all"` get the whole table as one batch.
        label: What the plan calls it; by default the function's name.
    """

    function: UserFunction
    sees: Sees = "row"
    label: str = ""
    fits: bool = field(default=False, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """The label, or the function's name."""
        return f"map {self.label or getattr(self.function, '__name__', type(self.function).__name__)}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Call the function on the input as one batch.

        Raises:
            DataError: If the function fails, or gives no record batch with `_row`; an example row is shown.
        """
        table = tables["input"]
        batch = as_batch(table)
        try:
            found = self.function(batch)
        except Exception as error:
            example = batch.slice(0, 1).to_pylist()
            problem = (
                f"raised {type(error).__name__}: {error} on a batch of {len(batch):,} rows beginning with {example}"
            )
            raise DataError(f"step {self.name}", problem, "a record batch", "correct the function") from error
        if not isinstance(found, pa.RecordBatch):
            raise DataError(
                f"step {self.name}", f"returned a {type(found).__name__}", "a pyarrow.RecordBatch", "return one"
            )
        out = pa.Table.from_batches([found])
        kept = set(ids_of(self.name, out).tolist())
        gone = [row not in kept for row in table.column(ROW).to_pylist()]
        lost = table.filter(pa.array(gone, pa.bool_()))
        if not len(lost):
            return Rows(out)
        return Rows(out, quarantine=lost.add_column(1, "reason", pa.array([self.name] * len(lost), pa.string())))


@dataclass(frozen=True)
class Where:
    """Keep the rows for which a condition holds; the others are quarantined under it, unknown ones too.

    Args:
        condition: A DuckDB expression over the columns.
    """

    condition: str
    sees: Sees = field(default="row", init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """The condition."""
        return f"where {self.condition}"

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return both halves."""
        holds = f"coalesce(({self.condition}), false)"
        reason = "'" + self.name.replace("'", "''") + "'"
        gone = f'select "_row", {reason} as reason, * exclude ("_row") from input where not {holds}'
        return Query(f"select * from input where {holds}", gone, touches=())


@dataclass(frozen=True)
class Derive:
    """Add or replace columns by DuckDB expressions over the row.

    Args:
        columns: Pairs of name and expression.
    """

    columns: tuple[tuple[str, str], ...]
    sees: Sees = field(default="row", init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """The names of the columns."""
        return f"derive {', '.join(name for name, _ in self.columns)}"

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return the projection."""
        made = {name: f"({text}) as {quoted_name(name)}" for name, text in self.columns}
        kept = [made.pop(name, quoted_name(name)) for name in schema.names]
        touched = tuple(name for name, _ in self.columns)
        return Query(f"select {', '.join([*kept, *made.values()])} from input", touches=touched)


@dataclass(frozen=True)
class Keep:
    """Keep some columns; the others are left behind.

    Args:
        columns: Their names; `_row` stays in any case.
    """

    columns: tuple[str, ...]
    sees: Sees = field(default="row", init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """The names of the columns."""
        return f"keep {', '.join(self.columns)}"

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return the projection."""
        names = [ROW, *(name for name in self.columns if name != ROW)]
        return Query(f"select {', '.join(map(quoted_name, names))} from input", touches=())


def quoted_name(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def as_batch(table: pa.Table) -> pa.RecordBatch:
    """Return a table as one record batch."""
    return pa.RecordBatch.from_arrays([one_chunk(column) for column in table.columns], schema=table.schema)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without a copy if it is one already."""
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
