"""Steps that take rows out because of other rows: repeated ones, outlying ones, and those that leak across a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.clean.doubts import outlier_scores, split_leaks
from stepwell.prepare.clean.duplicates import groups, near_duplicates, vector_duplicates
from stepwell.prepare.map import quoted_name
from stepwell.prepare.step import (
    INPUT,
    NOTHING,
    ROW,
    SPLIT,
    TRAIN,
    Fitted,
    Keyed,
    Query,
    Rows,
    Sees,
    Stream,
    parents_table,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Likeness: TypeAlias = Literal["exact", "text", "vectors"]
Then: TypeAlias = Literal["merge", "quarantine"]
PARTS = (TRAIN, "valid", "test")
"""The parts of a split, in order of time."""
_LEAKS = pa.schema([(ROW, pa.int64()), (SPLIT, pa.string()), ("key", pa.string()), ("value", pa.string())])


@dataclass(frozen=True)
class Repeated:
    """Keep one row of those that are equal in some columns; inside DuckDB, so memory is no limit.

    The kept row has its id; the note `duplicates` says which rows it stands for. If there is a split, the row of the
    latest part is kept: what is tested is not also learnt.

    Args:
        columns: What must be equal; missing values are equal to each other.
        then: What becomes of the others: `"merge"` makes them parents of the kept row, `"quarantine"` takes them out.
        order: Column whose least value is kept, ties and "" by the least id.
    """

    columns: tuple[str, ...]
    then: Then = "merge"
    order: str = ""
    sees: Sees = field(default="all", init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        _check(self.columns, self.then)

    @property
    def name(self) -> str:
        """The columns."""
        return f"deduplicate {', '.join(self.columns)}"

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return the kept rows, the others, and who stands for whom."""
        row, key = quoted_name(ROW), ", ".join(map(quoted_name, self.columns))
        part = (
            f"list_position([{', '.join(map(repr, PARTS))}], {SPLIT}::varchar) desc, " if SPLIT in schema.names else ""
        )
        order = f"{quoted_name(self.order)} nulls last, " if self.order else ""
        first = f"first_value({row}) over (partition by {key} order by {part}{order}{row})"
        listed = f"select _first as {row}, {row} as %s from base where %s order by 1, 2"
        gone = f"{row} <> _first"
        reason = "'" + self.name.replace("'", "''") + "'"
        taken = f"select {row}, {reason} as reason, * exclude ({row}, _first) from base where {gone} order by 1"
        pairs = f"_first in (select _first from base where {gone})"
        return Query(
            f"select * exclude (_first) from base where {row} = _first order by {row}",
            quarantine=taken if self.then == "quarantine" else "",
            parents=listed % (f"_parent, '{INPUT}' as _source", pairs) if self.then == "merge" else "",
            notes={"duplicates": listed % ("other, 1.0::double as similarity", gone)},
            touches=(),
            base=f"select *, {first} as _first from input",
        )


@dataclass(frozen=True)
class NearlyRepeated:
    """Keep one row of those that are nearly the same: texts by their letter runs, or vectors by their angle.

    Rows that are alike through others are one group. What is kept, and what is noted, is as for `Repeated`.

    Args:
        columns: One column of texts, or number columns (or one of lists) that make a vector.
        how: `"text"` or `"vectors"`.
        similarity: From which two rows are the same: Jaccard of letter runs, or cosine.
        then: What becomes of the others; see `Repeated`.
        order: Column whose least value is kept, ties and "" by the least id.
    """

    columns: tuple[str, ...]
    how: Literal["text", "vectors"] = "text"
    similarity: float = 0.8
    then: Then = "merge"
    order: str = ""
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=False, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("clean",), init=False)

    def __post_init__(self) -> None:
        _check(self.columns, self.then)
        if not 0 < self.similarity <= 1:
            raise InvalidValueError("similarity", self.similarity, "above 0 and at most 1")
        if self.how == "text" and len(self.columns) != 1:
            raise InvalidValueError("columns", self.columns, "one column of texts")

    @property
    def name(self) -> str:
        """The columns and the likeness."""
        return f"deduplicate {', '.join(self.columns)} from {self.similarity:g}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Find the pairs, make groups of them, and keep one row of each."""
        table = tables[INPUT]
        _known(table, (*self.columns, *((self.order,) if self.order else ())))
        rows = table.column(ROW).to_numpy()
        if self.how == "text":
            pairs = _like_texts(table, self.columns[0], self.similarity)
        else:
            pairs = vector_duplicates(_vectors(table, self.columns), rows, similarity=self.similarity)
        group = groups(pairs, rows)
        order = _preference(table, self.order)
        best = order[np.unique(group[order], return_index=True)[1]]
        kept = dict(zip(group[best].tolist(), rows[best].tolist(), strict=True))
        first = np.array([kept[one] for one in group.tolist()], np.int64)
        return self._settle(table, first, pairs)

    def _settle(self, table: pa.Table, first: npt.NDArray[np.int64], pairs: pa.Table) -> Rows:
        rows = table.column(ROW).to_numpy()
        gone = rows != first
        likeness: dict[int, float] = {}
        for a, b, one in zip(*(column.to_pylist() for column in pairs.columns), strict=True):
            likeness[a], likeness[b] = max(one, likeness.get(a, 0.0)), max(one, likeness.get(b, 0.0))
        similar = np.array([likeness[row] for row in rows[gone].tolist()], np.float64)
        note = pa.table([first[gone], rows[gone], similar], names=[ROW, "other", "similarity"])
        notes = {"duplicates": note.sort_by([(ROW, "ascending"), ("other", "ascending")])}
        out = table.filter(pa.array(~gone))
        if self.then == "quarantine":
            taken = table.filter(pa.array(gone))
            return Rows(out, quarantine=taken.add_column(1, "reason", _filled(self.name, len(taken))), notes=notes)
        several = np.isin(first, first[gone])
        return Rows(out, parents_table(first[several], rows[several]), notes=notes)


@dataclass(frozen=True)
class Outliers:
    """Take out the training rows whose values are rarest, at most a share; what is tested on passes as it is.

    The note `outliers` has their scores. A missing number counts as the column's median, so it makes no outlier.

    Args:
        columns: Number columns that are judged together.
        share: How many of the training rows are outliers, as a share of them.
        then: `"quarantine"` them, or `"keep"` them and note them only.
    """

    columns: tuple[str, ...]
    share: float = 0.01
    then: Literal["quarantine", "keep"] = "quarantine"
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("clean",), init=False)

    def __post_init__(self) -> None:
        _check(self.columns, self.then, ("quarantine", "keep"))
        if not 0 < self.share < 1:
            raise InvalidValueError("share", self.share, "between 0 and 1")

    @property
    def name(self) -> str:
        """The columns and the share."""
        return f"outliers in {', '.join(self.columns)}, {self.share:.3g} of the rows"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing yet: the rows that are judged are those that teach."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Score the training rows."""
        table = tables[INPUT]
        _known(table, self.columns)
        place = np.flatnonzero(_part(table) == 0)
        most = int(self.share * len(place))
        if not most:
            return Rows(table)
        values = _vectors(table.take(pa.array(place)), self.columns)
        scores = outlier_scores(np.stack([_without_gaps(column) for column in values.T], axis=1))
        rows = table.column(ROW).to_numpy()[place]
        chosen = np.sort(np.lexsort((rows, -scores))[:most])
        note = pa.table([rows[chosen], scores[chosen]], names=[ROW, "score"])
        if self.then == "keep":
            return Rows(table, notes={"outliers": note})
        gone = np.zeros(len(table), np.bool_)
        gone[place[chosen]] = True
        taken = table.filter(pa.array(gone))
        reason = _filled("outlier", len(taken))
        return Rows(
            table.filter(pa.array(~gone)), quarantine=taken.add_column(1, "reason", reason), notes={"outliers": note}
        )


@dataclass(frozen=True)
class Leaks:
    """Take rows out of an earlier part of the split that share an entity, or nearly a text, with a later part.

    All such rows, on both sides, are in the note `leaks` (`key` is the column, or `duplicate`).

    Args:
        keys: Columns each of which names an entity: a customer, a patient; missing ones are not compared.
        text: Column of texts that must not nearly repeat across parts, or "".
        similarity: From which two texts are the same.
        then: `"quarantine"`, `"keep"` and note them only, or `"fail"`.
    """

    keys: tuple[str, ...] = ()
    text: str = ""
    similarity: float = 0.8
    then: Literal["quarantine", "keep", "fail"] = "quarantine"
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("clean",), init=False)

    def __post_init__(self) -> None:
        _check((*self.keys, *((self.text,) if self.text else ())), self.then, ("quarantine", "keep", "fail"))

    @property
    def name(self) -> str:
        """What is compared."""
        return f"leaks of {', '.join((*self.keys, *((self.text,) if self.text else ())))}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing; the step comes after the split because it judges it."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Compare the parts.

        Raises:
            DataError: If there is no split, or something leaks and `then` is `"fail"`.
        """
        table = tables[INPUT]
        _known(table, (*self.keys, *((self.text,) if self.text else ())))
        if SPLIT not in table.schema.names:
            raise DataError(f"step {self.name}", "finds no parts to compare", "a column `split`", "add .split(...)")
        pairs = _like_texts(table, self.text, self.similarity) if self.text else None
        found = split_leaks(table.select([ROW, SPLIT, *self.keys]), self.keys, pairs=pairs).cast(_LEAKS)
        if self.then == "fail" and len(found):
            example = found.slice(0, 1).to_pylist()[0]
            problem = f"found {len(found):,} rows that leak, such as {example}"
            raise DataError(f"step {self.name}", problem, "parts that share no entity", "split by=, or see then=")
        notes = {"leaks": found}
        if self.then == "keep" or not len(found):
            return Rows(table, notes=notes)
        reasons = self._reasons(table, found)
        place = pc.index_in(table.column(ROW), reasons.column(ROW))
        taken = table.filter(place.is_valid())
        why = reasons.column("reason").take(pc.drop_null(place))
        return Rows(table.filter(place.is_null()), quarantine=taken.add_column(1, "reason", why), notes=notes)

    def _reasons(self, table: pa.Table, found: pa.Table) -> pa.Table:
        """Return the rows of earlier parts, each with the keys by which it leaks."""
        rows = dict(zip(table.column(ROW).to_pylist(), _part(table).tolist(), strict=True))
        latest: dict[tuple[str, str], int] = {}
        for one in found.to_pylist():
            at = (one["key"], one["value"])
            part = rows[int(one["value"])] if one["key"] == "duplicate" else rows[one[ROW]]
            latest[at] = max(part, latest.get(at, 0))
        keys: dict[int, set[str]] = {}
        for one in found.to_pylist():
            if rows[one[ROW]] < latest[one["key"], one["value"]]:
                keys.setdefault(one[ROW], set()).add(one["key"])
        reasons = [f"leak: {', '.join(sorted(names))}" for names in keys.values()]
        return pa.table([pa.array(keys, pa.int64()), pa.array(reasons, pa.string())], names=[ROW, "reason"])


def _check(columns: tuple[str, ...], then: str, allowed: tuple[str, ...] = ("merge", "quarantine")) -> None:
    if not columns:
        raise InvalidValueError("columns", columns, "at least one column")
    if then not in allowed:
        raise InvalidValueError("then", then, " or ".join(map(repr, allowed)))


def _known(table: pa.Table, columns: tuple[str, ...]) -> None:
    for name in columns:
        if name not in table.schema.names:
            raise UnknownNameError("column", name, table.schema.names)


def _part(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the place of each row's part in time; 0 everywhere if there is no split."""
    if SPLIT not in table.schema.names:
        return np.zeros(len(table), np.int64)
    place = pc.index_in(table.column(SPLIT), pa.array(PARTS))
    return np.asarray(pc.fill_null(place, len(PARTS)).to_numpy(), np.int64)


def _preference(table: pa.Table, order: str) -> npt.NDArray[np.int64]:
    """Return places of rows, the one to keep before the others: of a later part, of a lesser value, of a lesser id."""
    columns = {"part": -_part(table), ROW: table.column(ROW)}
    keys = [("part", "ascending"), *((("value", "ascending"),) if order else ()), (ROW, "ascending")]
    given = pa.table({**columns, **({"value": table.column(order)} if order else {})})
    return np.asarray(pc.sort_indices(given, sort_keys=keys), np.int64)


def _like_texts(table: pa.Table, column: str, similarity: float) -> pa.Table:
    """Return pairs of rows with nearly the same text; rows without one are in no pair."""
    known = table.select([ROW, column]).filter(pc.is_valid(table.column(column)))
    texts = known.column(column).cast(pa.string()).to_pylist()
    return near_duplicates(texts, known.column(ROW).to_numpy(), similarity=similarity)


def _vectors(table: pa.Table, columns: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return number columns, or a column of lists, as a matrix with NaN where a number is missing."""
    parts = []
    for name in columns:
        column = table.column(name).combine_chunks()
        if pa.types.is_nested(column.type):
            flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
            parts.append(flat.reshape(len(table), -1).astype(np.float64))
        else:
            parts.append(column.cast(pa.float64()).to_numpy(zero_copy_only=False)[:, None])
    return np.concatenate(parts, axis=1)


def _without_gaps(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return numbers with the median where one is missing or infinite; zeros if all are."""
    known = np.isfinite(values)
    return np.where(known, values, np.median(values[known]) if known.any() else 0.0)


def _filled(text: str, length: int) -> pa.Array:
    return pa.array([text], pa.string()).take(pa.array(np.zeros(length, np.int64)))
