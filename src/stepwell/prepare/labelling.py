"""The step that labels: votes of functions and crowds become labels with probabilities, by the label engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.prepare.label import LabelModel, Votes, vote
from stepwell.prepare.label.functions import LabellingFunction
from stepwell.prepare.step import INPUT, NOTHING, ROW, Fitted, Keyed, Rows, Sees, Stream


@dataclass(frozen=True)
class Crowd:
    """Votes that stand in a table of the lake.

    Args:
        votes: The table.
        item: Its column with the key of the row that a vote is about.
        key: The prepared table's column with that key; by default of the same name.
        source: Its column with who votes.
        label: Its column with what is said.
    """

    votes: Keyed
    item: str
    key: str = ""
    source: str = "source"
    label: str = "label"


@dataclass(frozen=True)
class Label:
    """Add `label`, `label_prob` and `weight` (how much a row should count in training) from votes; keep the votes.

    Args:
        functions: Labelling functions.
        classes: Names of all classes.
        crowd: Votes from a table.
        gold: Column with the true class, null where it is not known; it stays as it is and teaches about the sources.
        model: Settings of the engine.
        uncovered: What becomes of rows without a vote: `"keep"` them with a null label and weight 0, or `"quarantine"`.
    """

    functions: tuple[LabellingFunction, ...]
    classes: tuple[str, ...]
    crowd: Crowd | None = None
    gold: str = ""
    model: LabelModel = field(default_factory=LabelModel)
    uncovered: Literal["keep", "quarantine"] = "keep"
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=False, init=False)
    engines: tuple[str, ...] = field(default=("label",), init=False)

    def __post_init__(self) -> None:
        if not self.functions and self.crowd is None:
            raise InvalidValueError("functions and crowd", None, "labelling functions, a table of votes, or both")
        if self.uncovered not in ("keep", "quarantine"):
            raise InvalidValueError("uncovered", self.uncovered, "'keep' or 'quarantine'")

    @property
    def name(self) -> str:
        """How many sources there are."""
        parts = [f"{len(self.functions)} functions"] if self.functions else []
        parts += [self.crowd.votes.table.name] if self.crowd is not None else []
        return f"label by {' and '.join(parts)}"

    @property
    def others(self) -> Mapping[str, Keyed]:
        """The table of votes."""
        return {} if self.crowd is None else {"votes": self.crowd.votes}

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing from training rows alone; sources are judged by all their votes."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Collect the votes, weigh them, and add the columns."""
        table = tables[INPUT]
        given = vote(self.functions, table, self.classes)
        if self.crowd is not None:
            given = given.with_votes(self._crowd(self.crowd, table, tables["votes"]))
        labels = self.model.fit(given, self._gold(table))
        found = labels.table(covered=True)
        place = pc.index_in(table.column(ROW), found.column(ROW))
        for name in ("label", "label_prob", "weight"):
            column = found.column(name).take(place)
            column = pc.fill_null(column, 0.0) if name == "weight" else column
            table = table.drop_columns([name]) if name in table.schema.names else table
            table = table.append_column(name, column)
        report = labels.report()
        notes = {"votes": given.table(), "label_sources": report.add_column(0, ROW, pa.array(np.arange(len(report))))}
        if self.uncovered == "keep":
            return Rows(table, notes=notes)
        known = place.is_valid()
        gone = table.filter(pc.invert(known))
        reason = pa.array(["label: no vote"] * len(gone), pa.string())
        return Rows(table.filter(known), quarantine=gone.add_column(1, "reason", reason), notes=notes)

    def _crowd(self, crowd: Crowd, table: pa.Table, votes: pa.Table) -> Votes:
        key = crowd.key or crowd.item
        for name, columns in ((key, table.schema.names), (crowd.item, votes.schema.names)):
            if name not in columns:
                raise UnknownNameError("column of the votes' items", name, columns)
        place = pc.index_in(votes.column(crowd.item).cast(table.schema.field(key).type), table.column(key))
        known = votes.filter(place.is_valid())
        items = table.column(ROW).take(pc.drop_null(place))
        known = known.drop_columns([ROW]).append_column(ROW, items)
        return Votes.from_table(
            known, source=crowd.source, label=crowd.label, classes=self.classes, rows=table.column(ROW).to_numpy()
        )

    def _gold(self, table: pa.Table) -> dict[int, str] | None:
        if not self.gold:
            return None
        if self.gold not in table.schema.names:
            raise UnknownNameError("column of the truth", self.gold, table.schema.names)
        known = table.filter(pc.is_valid(table.column(self.gold)))
        names = known.column(self.gold).cast(pa.string()).to_pylist()
        return dict(zip(known.column(ROW).to_pylist(), names, strict=True))
