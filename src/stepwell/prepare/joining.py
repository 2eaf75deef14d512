"""Steps that bring other tables in: a join as of what was known, and the linking of rows that mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.prepare.asof import AsOf, asof_sql
from stepwell.prepare.link import Settings, link, merge, predict
from stepwell.prepare.link.block import Block
from stepwell.prepare.link.compare import Comparison
from stepwell.prepare.link.merge import Fuse
from stepwell.prepare.map import quoted_name
from stepwell.prepare.row_ids import ids_schema
from stepwell.prepare.step import INPUT, NOTHING, ROW, Fitted, Keyed, Query, Rows, Sees, Stream

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LIKELY = 0.1


@dataclass(frozen=True)
class JoinAsOf:
    """Give each row what was known at its time; see `join_asof`. The joined row is kept as a parent.

    Args:
        right: The features' table.
        on: The columns.
    """

    right: Keyed
    on: AsOf
    sees: Sees = field(default="past", init=False)

    @property
    def name(self) -> str:
        """The table and its key."""
        return f"join {self.right.table.name} as of {self.on.time} by {', '.join(self.on.keys)}"

    @property
    def others(self) -> Mapping[str, Keyed]:
        """The features."""
        return {self.right.table.name: self.right}

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return the join, worked out once, and the parents that it found."""
        features, source = quoted_name(self.right.table.name), self.right.table.name.replace("'", "''")
        right = ids_schema(self.right.table)
        taken = [name for name in self.on.columns or right.names if name not in (ROW, *self.on.keys)]
        on = AsOf(
            self.on.keys,
            self.on.time,
            self.on.known_at,
            self.on.right_time,
            self.on.tolerance,
            (ROW, *taken),
            self.on.suffix,
        )
        joined = quoted_name(ROW + on.suffix)
        return Query(
            f'select * exclude ({joined}) from base order by "{ROW}"',
            parents=(
                f'select "{ROW}", "{ROW}" as _parent, \'{INPUT}\' as _source from base where {joined} is not null '
                f"union all select \"{ROW}\", {joined}, '{source}' from base where {joined} is not null"
            ),
            touches=(),
            base=asof_sql(schema, right, on, INPUT, features),
        )


@dataclass(frozen=True)
class Link:
    """Make one row of the rows that mean the same, within a table or with another one; see `link` and `merge`.

    Args:
        compare: What is compared.
        block: Which pairs are compared.
        other: The other table; None to look for duplicates within the input.
        labels: Known pairs by `_row`, if any.
        threshold: Probability from which a pair is a match; None: as `link` chooses it.
        settings: How the model is fitted.
        fuse: What settles a disagreement, by column.
        max_pairs: Refuse blocks that predict more pairs.
    """

    compare: tuple[Comparison, ...]
    block: tuple[Block, ...]
    other: Keyed | None = None
    labels: pa.Table | None = None
    threshold: float | None = None
    settings: Settings = field(default_factory=Settings)
    fuse: Mapping[str, Fuse] = field(default_factory=dict)
    max_pairs: int = 20_000_000
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=False, init=False)
    engines: tuple[str, ...] = field(default=("link", "label"), init=False)

    @property
    def name(self) -> str:
        """The other table, if there is one."""
        return "link" if self.other is None else f"link with {self.other.table.name}"

    @property
    def others(self) -> Mapping[str, Keyed]:
        """The other table."""
        return {} if self.other is None else {self.other.table.name: self.other}

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing from training rows alone; the model is that of all pairs."""
        return NOTHING

    def because(self, tables: Mapping[str, pa.Table]) -> str:
        """Return how many pairs the blocks will make, counted before any is made."""
        right = None if self.other is None else tables[self.other.table.name]
        counts = predict(tables[INPUT], right, self.block).to_pylist()
        return "; ".join(f"{row['rule']}: {row['pairs']:,} pairs" for row in counts)

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Link and merge."""
        left = tables[INPUT]
        right = None if self.other is None else tables[self.other.table.name]
        links = link(
            left,
            right,
            compare=self.compare,
            block=self.block,
            settings=self.settings,
            labels=self.labels,
            threshold=self.threshold,
            max_pairs=self.max_pairs,
        )
        merged = merge(links.entities, left, right, fuse=self.fuse)
        notes = {
            "pairs": _pairs(links.pairs),
            "conflicts": merged.conflicts.drop_columns([ROW]).rename_columns({"entity": ROW}),
            "linkage": _numbered(links.model.table()),
            "blocks": _numbered(links.blocks),
        }
        threshold = pa.table({ROW: pa.array([0]), "threshold": [links.threshold], "why": [links.why]})
        names = {"left": INPUT, "right": self.other.table.name if self.other is not None else INPUT}
        return Rows(merged.out, _renamed(merged.parents, names), notes={**notes, "threshold": threshold})


def _renamed(parents: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Call the sides as the step's tables; rows that nothing was merged into need no entry."""
    sources = parents.column("_source").to_pylist()
    named = pa.array([names[source] for source in sources], pa.string())
    listed = parents.set_column(parents.schema.names.index("_source"), "_source", named)
    alone = np.asarray(pc.equal(listed.column(ROW), listed.column("_parent"))) & np.asarray(pc.equal(named, INPUT))
    rows = listed.column(ROW).to_numpy()
    _, back, count = np.unique(rows, return_inverse=True, return_counts=True)
    return listed.filter(pa.array(~(alone & (count[back] == 1)))).select([ROW, "_parent", "_source"])


def _pairs(pairs: pa.Table) -> pa.Table:
    """Keep the pairs that are matches or might have been, under the id of their left row."""
    likely = pc.or_(pairs.column("match"), pc.greater_equal(pairs.column("probability"), _LIKELY))
    kept = pairs.filter(likely).drop_columns([ROW])
    return kept.rename_columns([{"left": ROW, "right": "other"}.get(name, name) for name in kept.schema.names])


def _numbered(table: pa.Table) -> pa.Table:
    if ROW in table.schema.names:
        return table
    return table.add_column(0, ROW, pa.array(np.arange(len(table))))


def blocks_of(block: Block | Sequence[Block]) -> tuple[Block, ...]:
    """Return one rule or several as a tuple."""
    return tuple(block) if isinstance(block, Sequence) else (block,)
