"""Steps that learn from the training rows and are then applied to every row: scaling, filling, vocabularies, hashing.

The pipeline hands `fit` the rows of the training period and nothing else, so what a model is tested on cannot shape
its own features; `apply` sees one row at a time, which is tried before it is believed. What was learnt is kept with the
data and is the same when a model is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.state import Json
from stepwell.prepare.map import as_batch, quoted_name
from stepwell.prepare.row_ids import key_ids
from stepwell.prepare.scratch import scratch
from stepwell.prepare.step import INPUT, Fitted, Keyed, Rows, Sees, Stream

How: TypeAlias = Literal["mean", "median", "mode"]
Learn: TypeAlias = Callable[[Stream], Fitted]
_MODE = "select {0} as v from train where {0} is not null group by v order by count(*) desc, v limit 1"
Apply: TypeAlias = Callable[[pa.RecordBatch, Fitted], pa.RecordBatch]


class Encoder(Protocol):
    """Turns some columns into numbers, by what the training rows say."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def fit(self, train: Stream) -> Mapping[str, Json]:
        """Learn from the training rows."""

    def encode(self, table: pa.Table, learnt: Mapping[str, Json]) -> pa.Table:
        """Return the table with the columns replaced or added."""


@dataclass(frozen=True)
class Standard:
    """Numbers less their mean, by their deviation, as float32; a constant column becomes zeros.

    Args:
        columns: The columns.
    """

    columns: tuple[str, ...]

    def fit(self, train: Stream) -> Mapping[str, Json]:
        """Learn means and deviations."""
        parts = [f"avg({name}::double), stddev_pop({name}::double)" for name in map(quoted_name, self.columns)]
        found = _one_row(train, self.columns, f"select {', '.join(parts)} from train")
        return {name: cast("Json", list(found[2 * i : 2 * i + 2])) for i, name in enumerate(self.columns)}

    def encode(self, table: pa.Table, learnt: Mapping[str, Json]) -> pa.Table:
        """Scale the columns."""
        for name in self.columns:
            mean, deviation = cast("list[float | None]", learnt[name])
            values = table.column(name).cast(pa.float64())
            scaled = pc.divide(pc.subtract(values, mean or 0.0), deviation or 1.0)
            table = _replaced(table, name, scaled.cast(pa.float32()))
        return table


@dataclass(frozen=True)
class Impute:
    """What is missing becomes the training rows' mean, median or most frequent value; NaN counts as missing.

    Args:
        columns: The columns.
        how: Which value; text takes the most frequent one only.
        indicator: Whether to add `<column>_missing`, a boolean.
    """

    columns: tuple[str, ...]
    how: How = "median"
    indicator: bool = True

    def fit(self, train: Stream) -> Mapping[str, Json]:
        """Learn the values."""
        values = [_present(name, train.schema) for name in self.columns]
        if self.how == "mode":  # the smallest of the most frequent, so that a tie has one answer
            return {
                name: cast("Json", (_rows(train, (name,), _MODE.format(value)) or [(None,)])[0][0])
                for name, value in zip(self.columns, values, strict=True)
            }
        function = "avg" if self.how == "mean" else "median"
        parts = ", ".join(f"{function}({value}::double)" for value in values)
        found = _one_row(train, self.columns, f"select {parts} from train")
        return dict(zip(self.columns, cast("tuple[Json, ...]", found), strict=True))

    def encode(self, table: pa.Table, learnt: Mapping[str, Json]) -> pa.Table:
        """Fill the columns."""
        for name in self.columns:
            column = table.column(name)
            missing = pc.is_null(column, nan_is_null=True)
            value = learnt[name]
            if value is not None:
                kind = pa.float64() if isinstance(value, float) else column.type
                column = pc.if_else(missing, pa.scalar(value, kind), column.cast(kind))
            table = _replaced(table, name, column)
            if self.indicator:
                table = _replaced(table, f"{name}_missing", missing)
        return table


@dataclass(frozen=True)
class Vocabulary:
    """Values become their place, from 1, among those the training rows have most often; all others become 0.

    Args:
        columns: The columns, each with a vocabulary of its own.
        size: How many values it holds at most.
        min_count: How often a value must occur.
    """

    columns: tuple[str, ...]
    size: int = 100_000
    min_count: int = 1

    def fit(self, train: Stream) -> Mapping[str, Json]:
        """Count the values."""
        found: dict[str, Json] = {}
        for name in self.columns:
            column = f"{quoted_name(name)}::varchar"
            ask = (
                f"select {column} as v from train where v is not null group by v having count(*) >= {self.min_count} "
                f"order by count(*) desc, v limit {self.size}"
            )
            found[name] = cast("Json", [row[0] for row in _rows(train, (name,), ask)])
        return found

    def encode(self, table: pa.Table, learnt: Mapping[str, Json]) -> pa.Table:
        """Look the values up."""
        for name in self.columns:
            words = pa.array(cast("list[str]", learnt[name]), pa.string())
            place = pc.index_in(_as_text(table.column(name)), words)
            codes = pc.add(pc.fill_null(place, -1), pa.scalar(1, pa.int32()))
            table = _replaced(table, name, codes.cast(pa.int32()))
        return table


@dataclass(frozen=True)
class Hash:
    """Values become one of so many numbers from 0 by a hash that is the same everywhere; nothing is learnt.

    Args:
        columns: The columns.
        buckets: How many numbers.
    """

    columns: tuple[str, ...]
    buckets: int = 1 << 18

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= 1 << 31:
            raise InvalidValueError("buckets", self.buckets, "from 1 to 2**31")

    def fit(self, train: Stream) -> Mapping[str, Json]:
        """Learn nothing."""
        return {}

    def encode(self, table: pa.Table, learnt: Mapping[str, Json]) -> pa.Table:
        """Hash the columns."""
        for name in self.columns:
            codes = [key_ids("hash", [chunk]) % self.buckets for chunk in table.column(name).chunks]
            whole = np.concatenate([*codes, np.empty(0, np.int64)]).astype(np.int32)
            table = _replaced(table, name, pa.chunked_array([whole]))
        return table


@dataclass(frozen=True)
class Encode:
    """Encoders one after the other; each is fitted on the training rows as the ones before it leave them.

    Args:
        encoders: The encoders, in order.

    Cost:
        One pass over the training rows for each encoder (for a vocabulary, each column), and one over all rows.
    """

    encoders: tuple[Encoder, ...]
    sees: Sees = field(default="row", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """The encoders and their columns."""
        return "encode " + ", ".join(f"{type(e).__name__.lower()}({', '.join(e.columns)})" for e in self.encoders)

    def fit(self, train: Stream) -> Fitted:
        """Fit the encoders."""
        learnt: dict[str, Json] = {}
        for number, encoder in enumerate(self.encoders):
            before = self.encoders[:number]
            learnt[str(number)] = dict(encoder.fit(_encoded(train, before, learnt)))
        return Fitted(learnt)

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Apply the encoders."""
        return Rows(_encode(tables[INPUT], self.encoders, fitted.values))


@dataclass(frozen=True)
class FittedMap:
    """A user's own fitted step: learns from the training rows, then maps record batches, a row at a time in effect.

    Args:
        learn: From the training rows to what is kept.
        function: From a record batch and what was learnt to a record batch.
        label: What the plan calls it.
    """

    learn: Learn
    function: Apply
    label: str = ""
    sees: Sees = field(default="row", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    @property
    def name(self) -> str:
        """The label, or the function's name."""
        return f"fitted {self.label or getattr(self.function, '__name__', type(self.function).__name__)}"

    def fit(self, train: Stream) -> Fitted:
        """Call the user's `learn`."""
        return self.learn(train)

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Call the user's function."""
        return Rows(pa.Table.from_batches([self.function(as_batch(tables[INPUT]), fitted)]))


def _encode(table: pa.Table, encoders: Sequence[Encoder], learnt: Mapping[str, Json]) -> pa.Table:
    for number, encoder in enumerate(encoders):
        missing = [name for name in encoder.columns if name not in table.schema.names]
        if missing:
            problem = f"has no column {missing[0]!r}"
            raise DataError("step encode", problem, ", ".join(table.schema.names), "name one of these")
        table = encoder.encode(table, cast("Mapping[str, Json]", learnt[str(number)]))
    return table


def _encoded(train: Stream, encoders: Sequence[Encoder], learnt: Mapping[str, Json]) -> Stream:
    if not encoders:
        return train
    empty = _encode(train.schema.empty_table(), encoders, learnt)

    def start() -> object:
        for batch in train:
            yield from _encode(pa.Table.from_batches([batch]), encoders, learnt).to_batches()

    return Stream(empty.schema, start)  # type: ignore[arg-type]


def _one_row(train: Stream, columns: Sequence[str], query: str) -> tuple[object, ...]:
    return tuple(_rows(train, columns, query)[0])


def _rows(train: Stream, columns: Sequence[str], query: str) -> list[tuple[object, ...]]:
    """Run an aggregate over the training rows; on one thread, so that sums are the same in every run."""
    missing = [column for column in columns if column not in train.schema.names]
    if missing:
        known = ", ".join(train.schema.names)
        raise DataError("step encode", f"has no column {missing[0]!r}", known, "name one of these")
    kept = pa.schema([train.schema.field(column) for column in dict.fromkeys(columns)])
    reader = pa.RecordBatchReader.from_batches(kept, (batch.select(kept.names) for batch in train))
    connection = scratch()
    try:
        connection.register("train", reader)
        found: list[tuple[object, ...]] = connection.sql(query).fetchall()
        return found
    finally:
        connection.close()


def _present(name: str, schema: pa.Schema) -> str:
    column = quoted_name(name)
    real = pa.types.is_floating(schema.field(name).type) if name in schema.names else False
    return f"(case when isnan({column}) then null else {column} end)" if real else column


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if column.type == pa.string() else column.cast(pa.string())


def _replaced(table: pa.Table, name: str, values: pa.ChunkedArray | pa.Array) -> pa.Table:
    if name in table.schema.names:
        return table.set_column(table.schema.names.index(name), name, values)
    return table.append_column(name, values)
