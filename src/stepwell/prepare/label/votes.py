"""Votes: who said what about which item, kept sparse, for crowds, labelling functions, models and extractors alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core import Ids
from stepwell.core.errors import DataError, InvalidValueError

Floats: TypeAlias = npt.NDArray[np.float64]
_TO_MEND = "name the column that holds it, or drop those rows"


@dataclass(frozen=True, eq=False)
class Votes:
    """A sparse list of votes, sorted by item and then source.

    Guarantee: at most one vote a source and item (the last one given counts); no absent votes; `rows` ascends.

    Args:
        rows: Ids of the items, `[N]`, ascending; an item may have no vote.
        sources: Names of the sources.
        classes: Names of the labels; none if votes are numbers.
        item: Place of each vote's item in `rows`, `[V]`.
        source: Place of its source in `sources`, `[V]`.
        label: Place of its label in `classes`, `[V]`; zeros if votes are numbers.
        number: The number voted, `[V]`; zeros if votes are labels.

    Example:
        >>> votes = Votes.from_matrix([[0, 0, 1], [1, -1, 1]], classes=("ham", "spam"))
        >>> len(votes), votes.indptr.tolist()
        (5, [0, 3, 5])
    """

    rows: Ids
    sources: tuple[str, ...]
    classes: tuple[str, ...]
    item: Ids
    source: Ids
    label: Ids
    number: Floats

    @staticmethod
    def from_arrays(
        item: npt.ArrayLike,
        source: npt.ArrayLike,
        label: npt.ArrayLike,
        *,
        classes: Sequence[str],
        sources: Sequence[str] = (),
        rows: npt.ArrayLike | None = None,
    ) -> Votes:
        """Return votes from three arrays.

        Args:
            item: Ids of the items, `[V]`.
            source: Numbers of the sources from 0, `[V]`.
            label: Numbers of the labels from 0, -1 where a source says nothing, `[V]`; with no `classes`, the numbers
                voted, NaN where a source says nothing.
            classes: Names of the labels; empty if votes are numbers.
            sources: Names of the sources, by default their numbers.
            rows: Ids of all items, by default those that occur.

        Raises:
            InvalidValueError: If lengths differ, or a number has no name.

        Cost: O(V log V).
        """
        ids = np.asarray(item, np.int64)
        who = np.asarray(source, np.int64)
        said = np.asarray(label, np.int64 if classes else np.float64)
        if not (len(ids) == len(who) == len(said)):
            raise InvalidValueError("item, source and label", (len(ids), len(who), len(said)), "of one length")
        if sources:
            names = tuple(map(str, sources))
        else:
            names = tuple(str(number) for number in range(int(who.max(initial=-1)) + 1))
        _check_range("source", who, 0, len(names))
        if len(set(names)) < len(names):
            raise InvalidValueError("sources", list(names), "distinct names")
        if classes:
            _check_range("label", said.astype(np.int64), -1, len(classes))
        known = np.unique(ids if rows is None else np.asarray(rows, np.int64))
        at = np.searchsorted(known, ids)
        if len(ids) and (not len(known) or (known[np.minimum(at, len(known) - 1)] != ids).any()):
            raise InvalidValueError("item", ids[:5].tolist(), "ids that stand in `rows`")
        present = said >= 0 if classes else ~np.isnan(said)
        return _sorted(known, names, tuple(map(str, classes)), at[present], who[present], said[present])

    @staticmethod
    def from_matrix(matrix: npt.ArrayLike, *, classes: Sequence[str], sources: Sequence[str] = ()) -> Votes:
        """Return votes from a dense matrix, one row an item and one column a source, -1 where absent.

        Raises:
            InvalidValueError: If it is no matrix, or a number has no name.

        Cost: O(N m).
        """
        dense = np.asarray(matrix)
        if dense.ndim != 2:
            raise InvalidValueError("matrix", dense.shape, "of two dimensions, items by sources")
        item, source = np.nonzero(dense >= 0) if classes else np.nonzero(~np.isnan(dense.astype(np.float64)))
        names = sources or [str(number) for number in range(dense.shape[1])]
        label = dense[item, source]
        return Votes.from_arrays(item, source, label, classes=classes, sources=names, rows=np.arange(len(dense)))

    @staticmethod
    def from_table(
        table: pa.Table,
        *,
        item: str = "_row",
        source: str = "source",
        label: str = "label",
        classes: Sequence[str] | None = None,
        rows: npt.ArrayLike | None = None,
    ) -> Votes:
        """Return votes from a table of one row a vote: a crowd's answers, for example.

        Args:
            table: The votes; a null label is an absent vote.
            item: Column of the items' ids, integers.
            source: Column of who voted, of any type.
            label: Column of what was voted, of any type.
            classes: Names of the labels, by default those that occur, sorted; `()` if votes are numbers.
            rows: Ids of all items, by default those that occur.

        Raises:
            DataError: If a column is absent, has no ids where ids are due, or holds a label that is no class.

        Cost: O(V log V).
        """
        for name in (item, source, label):
            if name not in table.column_names:
                raise DataError("votes", f"there is no column {name!r}", ", ".join(table.column_names), _TO_MEND)
        if not pa.types.is_integer(table.schema.field(item).type) or table[item].null_count:
            raise DataError(f"votes, column {item!r}", "an item has no integer id", "int64, never null", _TO_MEND)
        if table[source].null_count:
            raise DataError(f"votes, column {source!r}", "a vote has no source", "a name, never null", _TO_MEND)
        ids = table[item].to_numpy().astype(np.int64)
        names, who = _codes(table[source], None, source)
        if classes is not None and not classes:
            if not _is_number(table.schema.field(label).type):
                raise DataError(f"votes, column {label!r}", "it holds no numbers", "a numeric column", _TO_MEND)
            said: npt.NDArray[np.generic] = table[label].cast(pa.float64()).to_numpy()
            return Votes.from_arrays(ids, who, said, classes=(), sources=names, rows=rows)
        known, codes = _codes(table[label], classes, label)
        return Votes.from_arrays(ids, who, codes, classes=known, sources=names, rows=rows)

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def indptr(self) -> Ids:
        """Where each item's votes begin, `[N + 1]`."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.item, minlength=len(self.rows)))]).astype(np.int64)

    @cached_property
    def per_source(self) -> Ids:
        """How many votes each source gave, `[m]`."""
        return np.bincount(self.source, minlength=len(self.sources)).astype(np.int64)

    @cached_property
    def one_sided(self) -> npt.NDArray[np.bool_]:
        """Whether each source only ever voted for one label, `[m]`."""
        seen = np.zeros((len(self.sources), max(1, len(self.classes))), bool)
        seen[self.source, self.label] = True
        sided: npt.NDArray[np.bool_] = seen.sum(1) <= 1
        return sided

    def table(self) -> pa.Table:
        """Return the votes as a table `_row`, `source`, `label`: names where votes are labels, else numbers."""
        names = pa.array(self.sources, pa.string())
        said = pa.array(self.classes, pa.string()).take(pa.array(self.label)) if self.classes else pa.array(self.number)
        columns = {"_row": self.rows[self.item], "source": names.take(pa.array(self.source)), "label": said}
        return pa.table(columns)

    def with_votes(self, more: Votes) -> Votes:
        """Return these votes and `more`; where both have a source's vote on an item, `more` counts.

        Raises:
            InvalidValueError: If the classes differ.

        Cost: O(V log V).
        """
        if more.classes != self.classes:
            raise InvalidValueError("more.classes", more.classes, f"{self.classes}, those of the votes it joins")
        sources = (*self.sources, *(name for name in more.sources if name not in set(self.sources)))
        place = {name: number for number, name in enumerate(sources)}
        moved = np.array([place[name] for name in more.sources], np.int64)
        rows = np.union1d(self.rows, more.rows)
        item = np.concatenate([self.rows[self.item], more.rows[more.item]])
        who = np.concatenate([self.source, moved[more.source] if len(more) else more.source])
        mine, theirs = (v.label if v.classes else v.number for v in (self, more))
        return _sorted(rows, sources, self.classes, np.searchsorted(rows, item), who, np.concatenate([mine, theirs]))

    def of(self, chosen: npt.NDArray[np.bool_]) -> Votes:
        """Return the votes where `chosen` is true, `[V]`; items, sources and classes stay."""
        kept = {name: getattr(self, name)[chosen] for name in ("item", "source", "label", "number")}
        return replace(self, **kept)


def _sorted(
    rows: Ids, sources: tuple[str, ...], classes: tuple[str, ...], item: Ids, source: Ids, said: npt.NDArray[np.generic]
) -> Votes:
    order = np.lexsort((source, item))  # stable, so the last of equal votes stays last
    item, source, said = item[order], source[order], said[order]
    last = np.ones(len(item), bool)
    last[:-1] = (item[1:] != item[:-1]) | (source[1:] != source[:-1])
    item, source, said = item[last], source[last], said[last]
    nothing = np.zeros(len(item))
    if classes:
        return Votes(rows, sources, classes, item, source, said.astype(np.int64), nothing)
    return Votes(rows, sources, (), item, source, nothing.astype(np.int64), said.astype(np.float64))


def _codes(column: pa.ChunkedArray, names: Sequence[str] | None, where: str) -> tuple[tuple[str, ...], Ids]:
    """Return names and the place of each cell among them, -1 for null."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    known = tuple(map(str, names)) if names is not None else tuple(_in_order(found))
    place = {name: number for number, name in enumerate(known)}
    strange = next((name for name in found if name not in place), None)
    if strange is not None:
        raise DataError(f"votes, column {where!r}", f"{strange!r} is no class", ", ".join(known), "name all `classes`")
    moved = np.array([place[name] for name in found], np.int64)
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return known, np.where(codes >= 0, moved[codes], -1) if len(moved) else np.full(len(codes), -1, np.int64)


def _in_order(names: list[str]) -> list[str]:
    """Sort names, as numbers if all are whole ones."""
    return sorted(names, key=int) if all(name.removeprefix("-").isdecimal() for name in names) else sorted(names)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _check_range(name: str, values: Ids, low: int, high: int) -> None:
    bad = np.flatnonzero((values < low) | (values >= high))
    if len(bad):
        raise InvalidValueError(f"{name}[{bad[0]}]", int(values[bad[0]]), f"from {low} to {high - 1}")
