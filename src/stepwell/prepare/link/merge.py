"""One row per entity: the rows that were linked become one, and where they disagree, the values are weighed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core import Ids
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.label import LabelModel, Votes
from stepwell.prepare.link.block import ROW
from stepwell.prepare.link.text import Floats

Fuse = Literal["truth", "first", "longest", "median"]


class Judge(Protocol):
    """Weighs what sources say: any engine of votes."""

    def __call__(self, item: Ids, source: Ids, value: Ids) -> Floats:
        """Return the probability that each vote's value is the true one of its item.

        Args:
            item: Item of each vote, from 0.
            source: Who says it, from 0.
            value: What is said, numbered from 0 within the item.
        """


@dataclass(frozen=True)
class Merged:
    """What merging gives.

    Args:
        out: A row per entity: `_row`, then every column of the tables. `_row` is the smallest id of the entity's left
            rows, or of its right rows if it has no other.
        parents: `_row`, `_parent`, `_source` (`"left"` or `"right"`): every row that went in, exactly once.
        conflicts: `_row` (0, 1, ...), `entity` (the `_row` of `out`), `column`, `value`, `votes` (rows that say it),
            `probability`, `chosen`: every value of every disagreement.
    """

    out: pa.Table
    parents: pa.Table
    conflicts: pa.Table


def truth(item: Ids, source: Ids, value: Ids) -> Floats:
    """Weigh values by how often each source agrees with the others: truth discovery by the label engine.

    A source that says nothing else than the others on the items they share gains weight on the rest. With two sources
    that never meet a third, nothing tells them apart, and both weigh the same.

    References:
        X. Yin, J. Han, P. Yu, "Truth discovery with multiple conflicting information providers on the web", 2007.
        Differs: the reliability of a source is that of the label engine's one-coin model.
    """
    if not len(item):
        return np.empty(0)
    classes = [str(number) for number in range(max(2, int(value.max()) + 1))]
    votes = Votes.from_arrays(item, source, value, classes=classes, rows=np.arange(int(item.max()) + 1))
    labels = LabelModel(source="one-coin", balance="uniform", merge_above=None).fit(votes)
    return np.asarray(labels.probabilities[item, value])


def merge(
    entities: pa.Table,
    left: pa.Table,
    right: pa.Table | None = None,
    *,
    fuse: Mapping[str, Fuse] | None = None,
    source: str | None = None,
    judge: Judge = truth,
) -> Merged:
    """Make one row of the rows of each entity.

    Guarantee: every row of both tables is a parent of exactly one row. A value that only one row has, or that all rows
    share, is kept as it is; null never wins over a value. The result does not depend on the order of rows but where a
    tie is decided: then left wins over right, and the smaller `_row` over the larger.

    Args:
        entities: `Links.entities`.
        left: The left table of the linkage.
        right: The right one, if there was one. Columns of one name must have one type.
        fuse: Column to what settles a disagreement: `"truth"` (the default; see `judge`), `"first"` (the left table,
            then the smallest `_row`), `"longest"` (of texts) or `"median"` (of numbers, the lower one of two).
        source: Column that says where each row comes from; by default the table it stands in.
        judge: What weighs the values of `"truth"`, column by column.

    Raises:
        DataError: If a row of the entities is missing, ids of both tables overlap, or types differ.
        UnknownNameError: If `fuse` or `source` names no column.
        InvalidValueError: If a policy is unknown.

    Cost: O(n columns), in memory; `judge` O(votes) a round.
    """
    tables = [left] if right is None else [left, right]
    rows = _stacked(tables)
    columns = [name for name in rows.schema.names if name != ROW]
    _check(rows, columns, fuse or {}, source)
    entity, sides, ids = _aligned(entities, tables)
    order = np.lexsort((ids, sides, entity))
    first = np.flatnonzero(np.diff(entity[order], prepend=-1))  # of each entity in that order
    entity = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(order))))
    rows, sides, ids = rows.take(order), sides[order], ids[order]
    new = ids[first]
    if len(np.unique(new)) < len(new):
        raise DataError("merge", "`_row` of both tables overlap", "ids that no two rows share", "number them apart")
    who = _sources(rows, source, sides)
    merged: dict[str, object] = {ROW: new}
    conflicts = []
    for name in columns:
        place, disputed = _settle(rows[name], entity, len(first), who, (fuse or {}).get(name, "truth"), judge)
        merged[name] = rows[name].take(pa.array(place, pa.int64(), mask=place < 0))
        conflicts.append(disputed.table(name, new))
    found = pa.concat_tables(conflicts) if conflicts else _Disputed.none().table("", new)
    found = found.add_column(0, ROW, pa.array(np.arange(found.num_rows)))
    names = pa.array(["left", "right"]).take(pa.array(sides))
    return Merged(pa.table(merged), pa.table({ROW: new[entity], "_parent": ids, "_source": names}), found)


@dataclass(frozen=True)
class _Disputed:
    """Every value of every disagreement of one column."""

    entity: Ids
    value: pa.Array
    votes: Ids
    probability: Floats
    chosen: Ids

    @staticmethod
    def none() -> _Disputed:
        empty = np.empty(0, np.int64)
        return _Disputed(empty, pa.array([], pa.string()), empty, np.empty(0), empty.astype(bool))

    def table(self, name: str, new: Ids) -> pa.Table:
        return pa.table(
            {
                "entity": new[self.entity] if len(self.entity) else self.entity,
                "column": pa.array([name] * len(self.entity), pa.string()),
                "value": self.value,
                "votes": self.votes,
                "probability": self.probability,
                "chosen": self.chosen,
            }
        )


def _settle(
    column: pa.ChunkedArray, entity: Ids, num_entities: int, who: Ids, policy: Fuse, judge: Judge
) -> tuple[Ids, _Disputed]:
    """Return the position of each entity's value in `column`, -1 for none, and the disagreements."""
    place = np.full(num_entities, -1, np.int64)
    known = np.flatnonzero(column.is_valid().to_numpy())
    if not len(known):
        return place, _Disputed.none()
    codes = column.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)[known]
    owner = entity[known]
    place[owner[::-1]] = known[::-1]  # the first value stands, unless there is another
    pair, back, votes = np.unique(
        owner * (int(codes.max()) + 1) + codes, return_inverse=True, return_counts=True
    )  # one value of one entity
    lead = np.full(len(pair), len(column), np.int64)
    np.minimum.at(lead, back, known)  # its first row
    holder = entity[lead]
    begin = np.flatnonzero(np.diff(holder, prepend=-1))
    count = np.diff(np.append(begin, len(holder)))
    number = np.arange(len(holder)) - np.repeat(begin, count)  # of the value within its entity
    disputed = np.repeat(count > 1, count)
    if not disputed.any():
        return place, _Disputed.none()
    score = _scores(column, policy, judge, owner, who[known], back, number, lead)
    best = np.lexsort((lead, -score, holder))
    winner = best[np.flatnonzero(np.diff(holder[best], prepend=-1))]
    place[holder[winner]] = lead[winner]
    chosen = np.zeros(len(pair), bool)
    chosen[winner] = True
    keep = np.flatnonzero(disputed)
    values = column.take(pa.array(lead[keep])).cast(pa.string()).combine_chunks()
    return place, _Disputed(holder[keep], values, votes[keep], score[keep], chosen[keep])


def _scores(
    column: pa.ChunkedArray, policy: Fuse, judge: Judge, owner: Ids, who: Ids, back: Ids, number: Ids, lead: Ids
) -> Floats:
    """Return how much speaks for each value of each entity; a probability if it was judged, else 1 for the chosen."""
    score = np.zeros(len(number))
    if policy == "truth":
        _, item = np.unique(owner, return_inverse=True)
        sources = int(who.max()) + 1
        # the second row of a source in an entity votes as a source of its own, as it may say something else
        _, voter = np.unique(_rank_within(item * sources + who) * sources + who, return_inverse=True)
        score[back] = judge(item.astype(np.int64), voter.astype(np.int64), number[back])
        return score
    if policy == "longest":
        length = pc.utf8_length(column.take(pa.array(lead)).cast(pa.string()))
        return np.asarray(length.to_numpy(), np.float64)
    if policy == "median":
        values = np.asarray(column.to_numpy(), np.float64)
        for group in np.split(np.argsort(owner, kind="stable"), np.flatnonzero(np.diff(np.sort(owner))) + 1):
            ranked = group[np.argsort(values[lead[back[group]]], kind="stable")]
            score[back[ranked[(len(ranked) - 1) // 2]]] = 1
    return score  # "first": the tie is decided by the row


def _rank_within(keys: Ids) -> Ids:
    """Return how many equal keys stand before each."""
    order = np.argsort(keys, kind="stable")
    begin = np.flatnonzero(np.diff(keys[order], prepend=keys.min() - 1))
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - np.repeat(begin, np.diff(np.append(begin, len(keys))))
    return rank


def _stacked(tables: list[pa.Table]) -> pa.Table:
    """Put the tables under each other, with nulls where one has no such column."""
    types: dict[str, pa.DataType] = {}
    for table in tables:
        for field in table.schema:
            if types.setdefault(field.name, field.type) != field.type:
                problem = f"is {types[field.name]} on the left and {field.type} on the right"
                raise DataError(f"column {field.name!r}", problem, "one type", "cast one of them")
    columns = []
    for name, type in types.items():
        parts = [t[name] if name in t.schema.names else pa.nulls(t.num_rows, type) for t in tables]
        columns.append(pa.chunked_array([c for p in parts for c in (p.chunks if hasattr(p, "chunks") else [p])], type))
    return pa.table(columns, list(types))


def _aligned(entities: pa.Table, tables: list[pa.Table]) -> tuple[Ids, Ids, Ids]:
    """Return entity, side (0 or 1) and id of every row, in the order of the stacked tables."""
    found = []
    for side, (name, table) in enumerate(zip(("left", "right"), tables, strict=False)):
        mine = entities.filter(pc.equal(entities["side"], name))
        ids, known = np.asarray(table[ROW].to_numpy()), np.asarray(mine["row"].to_numpy())
        order = np.argsort(known)
        if len(known) != len(ids) or (known[order] != np.sort(ids)).any():
            raise DataError(
                "entities", f"do not hold every row of the {name} table once", "`Links.entities`", "pass it"
            )
        entity = np.asarray(mine["entity"].to_numpy())[order][np.searchsorted(known[order], ids)]
        found.append((entity, np.full(len(ids), side), ids))
    return (
        np.concatenate([one[0] for one in found]),
        np.concatenate([one[1] for one in found]),
        np.concatenate([one[2] for one in found]),
    )


def _sources(rows: pa.Table, source: str | None, sides: Ids) -> Ids:
    if source is None:
        return sides
    codes = rows[source].combine_chunks().dictionary_encode().indices.fill_null(-1)
    return np.asarray(codes.to_numpy(zero_copy_only=False), np.int64) + 1


def _check(rows: pa.Table, columns: list[str], fuse: Mapping[str, Fuse], source: str | None) -> None:
    for name in (*fuse, *([source] if source else [])):
        if name not in columns:
            raise UnknownNameError("column", name, columns)
    for name, policy in fuse.items():
        if policy not in ("truth", "first", "longest", "median"):
            raise InvalidValueError(f"fuse[{name!r}]", policy, "'truth', 'first', 'longest' or 'median'")
        kind = rows.schema.field(name).type
        if policy == "median" and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InvalidValueError(f"fuse[{name!r}]", policy, f"for numbers, not {kind}")
