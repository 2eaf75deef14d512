"""The step that calls a table's columns as another table does, so that the two can be linked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.prepare.link.schema import Evidence, match_schema
from stepwell.prepare.map import quoted_name
from stepwell.prepare.row_ids import ids_schema
from stepwell.prepare.step import INPUT, ROW, Keyed, Query, Sees

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class MatchSchema:
    """Rename columns to those of another table that mean the same; see `match_schema`.

    All scores are kept in the note `schema`. A column that is left unmatched but stands in the way gets `_own` behind
    its name; no row is changed or lost.

    Args:
        other: The other table.
        evidence: What counts how much, and from which score a match counts.
        known: Matches that are certain, own name to the other's; "" for a column that has no match.
    """

    other: Keyed
    evidence: Evidence = field(default_factory=Evidence)
    known: Mapping[str, str] = field(default_factory=dict)
    sees: Sees = field(default="all", init=False)
    engines: tuple[str, ...] = field(default=("link",), init=False)

    def __post_init__(self) -> None:
        taken = [name for name in self.known.values() if name]
        if len(set(taken)) != len(taken):
            raise InvalidValueError("known", dict(self.known), "each column of the other table once")

    @property
    def name(self) -> str:
        """The other table."""
        return f"match columns with {self.other.table.name}"

    @property
    def others(self) -> Mapping[str, Keyed]:
        """The other table."""
        return {self.other.table.name: self.other}

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Match samples of both tables, and return the renaming.

        Raises:
            UnknownNameError: If `known` names a column that is not there.
        """
        theirs = [name for name in ids_schema(self.other.table).names if name != ROW]
        for own, other in self.known.items():
            if own not in schema.names:
                raise UnknownNameError("column", own, schema.names)
            if other and other not in theirs:
                raise UnknownNameError(f"column of {self.other.table.name}", other, theirs)
        if connection is None:
            return Query(self._renaming(schema, self.known))
        left = _sample(connection, INPUT, [name for name in schema.names if name not in (ROW, *self.known)])
        right = _sample(connection, self.other.table.name, [n for n in theirs if n not in self.known.values()])
        found = match_schema(left, right, self.evidence)
        matches = {row["left"]: row["right"] for row in found.to_pylist() if row["match"]}
        connection.register("_schema", found)
        renamed = self._renamed(schema, {**matches, **self.known})
        touched = [name for name in renamed.values() if name in schema.names and renamed.get(name) != name]
        return Query(
            self._renaming(schema, {**matches, **self.known}), notes={"schema": "from _schema"}, touches=tuple(touched)
        )

    def _renamed(self, schema: pa.Schema, matches: Mapping[str, str]) -> dict[str, str]:
        """Return the new name of each column."""
        given = {own: other for own, other in matches.items() if other}
        taken = {ROW, *given.values()}
        names: dict[str, str] = {}
        for name in schema.names:
            new = given.get(name, name)
            while name not in given and name != ROW and new in taken:
                new += "_own"
            names[name] = new
            taken.add(new)
        return names

    def _renaming(self, schema: pa.Schema, matches: Mapping[str, str]) -> str:
        pairs = self._renamed(schema, matches).items()
        columns = [f"{quoted_name(a)} as {quoted_name(b)}" if a != b else quoted_name(a) for a, b in pairs]
        return f"select {', '.join(columns)} from input"


def _sample(connection: DuckDBPyConnection, table: str, columns: list[str]) -> pa.Table:
    """Return some twenty thousand rows, chosen by their ids and so the same whatever their order."""
    row, source = quoted_name(ROW), quoted_name(table)
    count = int(connection.sql(f"select count(*) from {source}").fetchall()[0][0])
    every = max(1, -(-count // SAMPLE_ROWS))
    chosen = ", ".join([row, *map(quoted_name, columns)])
    query = f"select {chosen} from {source} where hash({row}) % {every} = 0 order by {row}"
    return connection.sql(query).to_arrow_table()
