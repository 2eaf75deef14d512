"""Which pairs are worth comparing: blocking rules that say how many pairs they make before they make any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.link import kernels
from stepwell.prepare.link.text import Bags, Unit, bags, normalized

ROW = "_row"


@runtime_checkable
class Block(Protocol):
    """A rule that proposes pairs. With `right` None, both rows of a pair are of the left table, the earlier first."""

    def predict(self, left: pa.Table, right: pa.Table | None) -> Predicted:
        """Count the pairs without making them."""

    def pairs(self, left: pa.Table, right: pa.Table | None) -> tuple[Ids, Ids]:
        """Return positions of the left and of the right row of each pair, without repetition."""


@dataclass(frozen=True)
class Predicted:
    """How many pairs a rule makes.

    Args:
        rule: The rule, as it prints itself.
        pairs: Their number, or what it cannot exceed.
        exact: Whether `pairs` is their number.
    """

    rule: str
    pairs: int
    exact: bool


@dataclass(frozen=True)
class Same:
    """Rows whose normalised values are equal in every one of these columns; a row with a null meets nobody.

    Args:
        columns: At least one column that both tables have.

    Cost: O(n + m) to predict, exactly; O(pairs) to make.
    """

    columns: tuple[str, ...]

    def __init__(self, *columns: str) -> None:
        if not columns:
            raise InvalidValueError("columns", columns, "at least one column")
        object.__setattr__(self, "columns", columns)

    def predict(self, left: pa.Table, right: pa.Table | None) -> Predicted:
        """Count exactly: the product of the frequencies of each value, summed."""
        a, b, size = self._keys(left, right)
        counts = np.bincount(a[a >= 0], minlength=size)
        if right is None:
            return Predicted(repr(self), int((counts * (counts - 1) // 2).sum()), exact=True)
        return Predicted(repr(self), int(counts @ np.bincount(b[b >= 0], minlength=size)), exact=True)

    def pairs(self, left: pa.Table, right: pa.Table | None) -> tuple[Ids, Ids]:
        """Pair the rows of each value."""
        a, b, size = self._keys(left, right)
        order = np.argsort(b, kind="stable")
        order = order[np.searchsorted(b[order], 0) :]
        bounds = np.searchsorted(b[order], np.arange(size + 1))
        rows = np.flatnonzero(a >= 0)
        begin, count = bounds[a[rows]], np.diff(bounds)[a[rows]]
        first = np.repeat(rows, count)
        within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
        second = order[np.repeat(begin, count) + within]
        keep = first < second if right is None else slice(None)
        return first[keep], second[keep]

    def _keys(self, left: pa.Table, right: pa.Table | None) -> tuple[Ids, Ids, int]:
        """Return a number per distinct value for the rows of each side, -1 for nulls, and how many values there are."""
        both = np.zeros(left.num_rows + (0 if right is None else right.num_rows), np.int64)
        size = 1
        for name in self.columns:
            parts = [normalized(table, [name]) for table in (left, right) if table is not None]
            column = pa.chunked_array(parts, pa.string()).combine_chunks()
            values = pa.chunked_array([column]).combine_chunks().dictionary_encode()
            ids = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            both = np.where((both < 0) | (ids < 0), -1, both * (len(values.dictionary) + 1) + ids)
            known, both[both >= 0] = np.unique(both[both >= 0], return_inverse=True)
            size = len(known)
        a = both[: left.num_rows]
        return a, a if right is None else both[left.num_rows :], size


@dataclass(frozen=True)
class Nearest:
    """The rows of the other table that are most alike: the largest cosines of TF-IDF bags, searched from both sides.

    Args:
        columns: The columns whose text counts, as one text.
        k: How many rows of the other table each row proposes, at least 1.
        unit: What the bags hold: groups of three letters, words, or words with digits.

    Cost: O(postings) multiply-adds: for each term, the product of its frequencies in both tables; no more than
    k (n + m) pairs.

    References:
        D. Paulsen, Y. Govind, A. Doan, "Sparkly: a simple yet surprisingly strong TF/IDF blocker", PVLDB 2023.
    """

    columns: tuple[str, ...]
    k: int
    unit: Unit

    def __init__(self, *columns: str, k: int = 10, unit: Unit = "grams") -> None:
        if not columns:
            raise InvalidValueError("columns", columns, "at least one column")
        if k < 1:
            raise InvalidValueError("k", k, "at least 1")
        for name, value in (("columns", columns), ("k", k), ("unit", unit)):
            object.__setattr__(self, name, value)

    def predict(self, left: pa.Table, right: pa.Table | None) -> Predicted:
        """Count what both searches can give at most; pairs found twice are made once."""
        n, m = left.num_rows, left.num_rows if right is None else right.num_rows
        if right is None:
            return Predicted(repr(self), min(n * min(self.k, max(0, n - 1)), n * (n - 1) // 2), exact=n <= 2)
        return Predicted(repr(self), min(n * min(self.k, m) + m * min(self.k, n), n * m), exact=min(n, m) == 0)

    def pairs(self, left: pa.Table, right: pa.Table | None) -> tuple[Ids, Ids]:
        """Search from both sides."""
        a = normalized(left, self.columns)
        b = a if right is None else normalized(right, self.columns)
        found = bags(a, b, self.unit)
        forth = _nearest(found.left, found.right, found.size, self.k, itself=right is None)
        if right is None:
            first, second = np.minimum(*forth), np.maximum(*forth)
        else:
            back = _nearest(found.right, found.left, found.size, self.k, itself=False)
            first, second = np.concatenate([forth[0], back[1]]), np.concatenate([forth[1], back[0]])
        return unique_pairs(first, second, len(b))


@dataclass(frozen=True, eq=False, repr=False)
class Listed:
    """Pairs that were chosen elsewhere.

    Args:
        table: `left` and `right`: the `_row` of both rows of each pair.
    """

    table: pa.Table

    def __repr__(self) -> str:
        return f"Listed({self.table.num_rows} pairs)"

    def predict(self, left: pa.Table, right: pa.Table | None) -> Predicted:
        """Count the table; repetitions are made once."""
        del left, right
        return Predicted(repr(self), self.table.num_rows, exact=False)

    def pairs(self, left: pa.Table, right: pa.Table | None) -> tuple[Ids, Ids]:
        """Find the rows.

        Raises:
            DataError: If a row does not exist.
        """
        other = left if right is None else right
        first, second = places(self.table["left"], left, "left"), places(self.table["right"], other, "right")
        if right is None:
            first, second = np.minimum(first, second), np.maximum(first, second)
        return unique_pairs(first, second, other.num_rows)


def places(wanted: pa.ChunkedArray, table: pa.Table, side: str) -> Ids:
    """Return where in the table the rows of these ids stand.

    Raises:
        DataError: If one does not exist.
    """
    ids, looked = np.asarray(table[ROW].to_numpy()), np.asarray(wanted.to_numpy())
    order = np.argsort(ids)
    at = np.searchsorted(ids[order], looked)
    missing = ids[order][np.minimum(at, len(ids) - 1)] != looked if len(ids) else np.ones(len(looked), bool)
    if missing.any():
        problem = f"row {int(looked[missing][0])} of the {side} table does not exist"
        raise DataError("pairs", problem, f"`{ROW}` of that table", "mend or leave out those pairs")
    return np.asarray(order[at], np.int64)


def _nearest(a: Bags, b: Bags, num_terms: int, k: int, *, itself: bool) -> tuple[Ids, Ids]:
    order = np.argsort(b.ids, kind="stable")
    rows = np.repeat(np.arange(len(b)), np.diff(b.indptr))[order]
    lists = np.zeros(num_terms + 1, np.int64)
    np.cumsum(np.bincount(b.ids, minlength=num_terms), out=lists[1:])
    found, _ = kernels.nearest(
        a.indptr, a.ids, a.weights, lists, rows, b.weights[order], len(b), min(k, max(1, len(b))), itself
    )
    place, column = np.nonzero(found >= 0)
    return place, found[place, column]


def unique_pairs(first: Ids, second: Ids, num_second: int) -> tuple[Ids, Ids]:
    """Return the pairs sorted and without repetition."""
    keys = np.unique(first * max(1, num_second) + second)
    left, right = np.divmod(keys, max(1, num_second))
    return left, right


def predict(left: pa.Table, right: pa.Table | None, rules: Sequence[Block]) -> pa.Table:
    """Say how many pairs each rule makes, without making them.

    Returns:
        A table with `rule`, `pairs`, `exact` (whether `pairs` is the number or its upper bound) and `share` (of all
        pairs), a row per rule.
    """
    found = [rule.predict(left, right) for rule in rules]
    n, m = left.num_rows, left.num_rows if right is None else right.num_rows
    every = n * (n - 1) // 2 if right is None else n * m
    return pa.table(
        {
            "rule": pa.array([one.rule for one in found], pa.string()),
            "pairs": pa.array([one.pairs for one in found], pa.int64()),
            "exact": pa.array([one.exact for one in found], pa.bool_()),
            "share": pa.array([one.pairs / max(1, every) for one in found], pa.float64()),
        }
    )


def candidates(
    left: pa.Table, right: pa.Table | None, rules: Sequence[Block], max_pairs: int = 20_000_000
) -> tuple[Ids, Ids]:
    """Return the positions of both rows of every pair that some rule proposes, each pair once, sorted.

    Raises:
        InvalidValueError: If there is no rule.
        DataError: If the rules predict more than `max_pairs`; no pair has been made then.
    """
    if not rules:
        raise InvalidValueError("block", rules, "at least one rule")
    predicted = predict(left, right, rules)
    counts = predicted["pairs"].to_pylist()
    if sum(counts) > max_pairs:
        worst = predicted["rule"][int(np.argmax(counts))].as_py()
        raise DataError(
            f"blocking by {len(rules)} rules",
            f"would make up to {sum(counts):,} pairs, {max(counts):,} of them by {worst}",
            f"at most max_pairs={max_pairs:,}",
            "add a column to that rule, lower its k, or raise max_pairs",
        )
    made = [rule.pairs(left, right) for rule in rules]
    first, second = (np.concatenate([pair[side] for pair in made]) for side in (0, 1))
    return unique_pairs(first, second, left.num_rows if right is None else right.num_rows)
