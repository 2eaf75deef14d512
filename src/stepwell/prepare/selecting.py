"""The step that keeps a few training rows, each weighted by the rows that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.select import Selector, select_rows, selectors
from stepwell.prepare.step import INPUT, NOTHING, ROW, SPLIT, TRAIN, Fitted, Keyed, Rows, Sees, Stream


@dataclass(frozen=True)
class Select:
    """Keep a share of the training rows, with the column `weight`; validation and test rows all go on with weight 1.

    The note `selection` has the chosen rows in their order. A weight that is there already is multiplied.

    Args:
        budget: Rows to keep: a count, or a share between 0 and 1.
        selector: A selector in the space `raw`, or its name.
        columns: Number columns to measure in; all if None.
        label: The class of each row, whose rows stand only for each other; "" makes one class of all.
        seed: For searches that draw.
    """

    budget: int | float
    selector: Selector | str = "camel"
    columns: tuple[str, ...] | None = None
    label: str = ""
    seed: int = 0
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=False, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("select",), init=False)

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise InvalidValueError("budget", self.budget, "a share between 0 and 1, or at least 1 row")
        if isinstance(self.selector, str):
            _ = selectors[self.selector]

    @property
    def name(self) -> str:
        """The budget and the selector."""
        how = self.selector if isinstance(self.selector, str) else "a selector"
        share = isinstance(self.budget, float) and self.budget < 1
        return f"select {self.budget:.0%} by {how}" if share else f"select {self.budget:,} rows by {how}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Choose among the training rows."""
        table = tables[INPUT]
        train = np.ones(len(table), bool)
        if SPLIT in table.schema.names:
            train = np.asarray(pc.equal(table.column(SPLIT), TRAIN))
        pool = table.filter(pa.array(train))
        numbers = self.columns
        if numbers is None:
            numbers = tuple(name for name in pool.schema.names if name not in ("weight", ROW) and _number(pool, name))
        used = [ROW, *numbers, *((self.label,) if self.label else ())]
        chosen = select_rows(
            pool.select(list(dict.fromkeys(used))),
            self.budget,
            selector=self.selector,
            columns=[name for name in numbers if name != self.label],
            label=self.label or None,
            seed=self.seed,
        )
        place = pc.index_in(table.column(ROW), chosen.column(ROW))
        kept = np.asarray(place.is_valid()) | ~train
        weight = pc.fill_null(chosen.column("weight").take(place).cast(pa.float64()), 1.0)
        if "weight" in table.schema.names:
            weight = pc.multiply(weight, table.column("weight").cast(pa.float64()))
            table = table.drop_columns(["weight"])
        out = table.append_column("weight", weight).filter(pa.array(kept))
        gone = table.select([ROW]).filter(pa.array(~kept))
        reason = pa.array(["not selected"] * len(gone), pa.string())
        return Rows(out, quarantine=gone.append_column("reason", reason), notes={"selection": chosen})


def _number(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
