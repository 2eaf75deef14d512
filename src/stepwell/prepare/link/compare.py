"""How alike two rows are, column by column: similarities in [0, 1], and NaN where one side says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError, MissingExtraError, UnknownNameError
from stepwell.prepare.link import kernels
from stepwell.prepare.link.text import Floats, Strings, Unit, bags, normalized

Measure = Literal["words", "grams", "codes", "soft", "jaro_winkler", "edit"]


@runtime_checkable
class Comparison(Protocol):
    """One comparison of the rows of a pair; any object of this form may be passed to `link`."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def compare(self, left: pa.Table, right: pa.Table, rows: tuple[Ids, Ids]) -> Compared:
        """Compare row `rows[0][i]` of `left` with row `rows[1][i]` of `right` for every `i`."""


@dataclass(frozen=True)
class Compared:
    """What one comparison found.

    Args:
        similarity: float64 in [0, 1] by pair, NaN where one of the values is missing.
        rarity: float64 by pair, or None: what full agreement weighs beyond the average value, ln(average frequency /
            frequency of the value agreed on).
    """

    similarity: Floats
    rarity: Floats | None = None


@dataclass(frozen=True)
class Exact:
    """Whether the normalised values are equal.

    Args:
        column: A column of both tables.
        rare: Whether agreement on a rare value counts for more (term-frequency adjustment).
    """

    column: str
    rare: bool = True

    @property
    def name(self) -> str:
        """The column."""
        return self.column

    def compare(self, left: pa.Table, right: pa.Table, rows: tuple[Ids, Ids]) -> Compared:
        """Compare codes of values; O(pairs)."""
        a, b, size = _codes(left, right, self.column)
        first, second = a[rows[0]], b[rows[1]]
        equal = np.where((first < 0) | (second < 0), np.nan, first == second)
        if not self.rare:
            return Compared(equal)
        share = np.bincount(np.concatenate([a[a >= 0], b[b >= 0]]), minlength=max(1, size)).astype(np.float64)
        share /= max(1.0, share.sum())
        average = max(float((share**2).sum()), 1e-12)
        rarity = np.zeros(len(first))
        agreed = equal == 1
        rarity[agreed] = np.log(average) - np.log(share[first[agreed]])
        return Compared(equal, rarity)


@dataclass(frozen=True)
class Text:
    """How alike two texts are.

    Args:
        columns: Columns of both tables; several are read as one text.
        measure: Cosine of TF-IDF bags of three-letter groups (`"grams"`), of words (`"words"`) or of words with digits
            (`"codes"`: model numbers, versions); the same with words that are nearly equal or abbreviated to an
            initial (`"soft"`, for names); or of the text as a whole, for short ones: `"jaro_winkler"`, `"edit"` (one
            minus edit distance by the longer length).
        name: What reports call it; by default the columns and the measure.

    Raises:
        InvalidValueError: If there is no column, or the measure is unknown.

    Cost: O(terms of both rows) a pair for bags, O(letters of the left x letters of the right) for the others.

    References:
        W. Cohen, P. Ravikumar, S. Fienberg, "A comparison of string distance metrics for name-matching tasks", 2003.
        W. Winkler, "String comparator metrics and enhanced decision rules", 1990.
    """

    columns: tuple[str, ...]
    measure: Measure = "grams"
    name: str = ""

    def __init__(self, *columns: str, measure: Measure = "grams", name: str = "") -> None:
        if not columns:
            raise InvalidValueError("columns", columns, "at least one column")
        if measure not in ("words", "grams", "codes", "soft", "jaro_winkler", "edit"):
            raise InvalidValueError("measure", measure, "words, grams, codes, soft, jaro_winkler or edit")
        name = name or f"{' '.join(columns)} ({measure.replace('_', '-')})"
        for field, value in (("columns", columns), ("measure", measure), ("name", name)):
            object.__setattr__(self, field, value)

    def compare(self, left: pa.Table, right: pa.Table, rows: tuple[Ids, Ids]) -> Compared:
        """Normalise both columns once, then measure pair by pair."""
        a, b = normalized(left, self.columns), normalized(right, self.columns)
        missing = _null(a)[rows[0]] | _null(b)[rows[1]]
        if self.measure in ("jaro_winkler", "edit"):
            kernel = kernels.jaro_winkler_pairs if self.measure == "jaro_winkler" else kernels.edit_pairs
            one, other = Strings.of(a), Strings.of(b)
            similarity = kernel(one.codes, one.bounds, other.codes, other.bounds, *rows)
        else:
            similarity, empty = _cosines(a, b, rows, self.measure)
            missing |= empty
        return Compared(np.where(missing, np.nan, np.clip(similarity, 0, 1)))


def _cosines(a: pa.Array, b: pa.Array, rows: tuple[Ids, Ids], measure: str) -> tuple[Floats, Ids]:
    unit: Unit = "grams" if measure == "grams" else "codes" if measure == "codes" else "words"
    found = bags(a, b, unit)
    one, other = found.left, found.right
    parts = (one.indptr, one.ids, one.weights, other.indptr, other.ids, other.weights, *rows)
    if measure == "soft":
        words = Strings.of(found.words)
        similarity = kernels.soft_pairs(words.codes, words.bounds, *parts, 0.85)
    else:
        similarity = kernels.cosine_pairs(*parts)
    empty = (np.diff(one.indptr) == 0)[rows[0]] | (np.diff(other.indptr) == 0)[rows[1]]
    return similarity, empty


@dataclass(frozen=True)
class Number:
    """How near two numbers are.

    Args:
        column: A column of both tables; of text, the first number in it counts.
        scale: The difference at which the similarity is one half, positive; None for the smaller number by the larger
            (0 and negative numbers are missing then).

    Raises:
        InvalidValueError: If the scale is not positive.
    """

    column: str
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and self.scale <= 0:
            raise InvalidValueError("scale", self.scale, "positive")

    @property
    def name(self) -> str:
        """The column, marked as a number."""
        return f"{self.column} (number)"

    def compare(self, left: pa.Table, right: pa.Table, rows: tuple[Ids, Ids]) -> Compared:
        """Compare; O(pairs)."""
        a, b = numbers(left, self.column)[rows[0]], numbers(right, self.column)[rows[1]]
        if self.scale is not None:
            return Compared(1 / (1 + np.abs(a - b) / self.scale))
        a, b = np.where(a > 0, a, np.nan), np.where(b > 0, b, np.nan)
        return Compared(np.minimum(a, b) / np.maximum(a, b))


@dataclass(frozen=True)
class Fuzz:
    """A measure of rapidfuzz, the optional library of string similarities (`stepwell[link]`).

    Args:
        column: A column of both tables.
        scorer: A function of `rapidfuzz.fuzz`, such as `"WRatio"`, `"token_set_ratio"` or `"partial_ratio"`.
    """

    column: str
    scorer: str = "WRatio"

    @property
    def name(self) -> str:
        """Column and scorer."""
        return f"{self.column} ({self.scorer})"

    def compare(self, left: pa.Table, right: pa.Table, rows: tuple[Ids, Ids]) -> Compared:
        """Compare the normalised values by rapidfuzz, pair by pair on all cores.

        Raises:
            MissingExtraError: If rapidfuzz is not installed.
            UnknownNameError: If it has no such scorer.
        """
        try:
            from rapidfuzz import fuzz, process  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise MissingExtraError("Fuzz", "rapidfuzz", "link") from error
        scorer = getattr(fuzz, self.scorer, None)
        if scorer is None:
            known = [name for name in dir(fuzz) if name.endswith("atio")]
            raise UnknownNameError("scorer of rapidfuzz", self.scorer, known)
        a, b = normalized(left, [self.column]), normalized(right, [self.column])
        missing = _null(a)[rows[0]] | _null(b)[rows[1]]
        one, other = pc.fill_null(a, "").to_pylist(), pc.fill_null(b, "").to_pylist()
        found = process.cpdist([one[i] for i in rows[0]], [other[j] for j in rows[1]], scorer=scorer, workers=-1)
        return Compared(np.where(missing, np.nan, np.asarray(found, np.float64) / 100))


def compare_all(
    left: pa.Table, right: pa.Table, rows: tuple[Ids, Ids], comparisons: Sequence[Comparison]
) -> tuple[Floats, Floats]:
    """Return similarity and rarity of every pair by every comparison, `[P, C]` each.

    Raises:
        InvalidValueError: If there is no comparison, or two have one name.
    """
    names = [one.name for one in comparisons]
    if not names or len(set(names)) < len(names):
        raise InvalidValueError("compare", names, "at least one comparison, all with names of their own")
    found = [one.compare(left, right, rows) for one in comparisons]
    similarity = np.stack([one.similarity for one in found], 1)
    rarity = np.stack([np.zeros(len(rows[0])) if one.rarity is None else one.rarity for one in found], 1)
    return similarity, rarity


def _null(text: pa.Array) -> Ids:
    return np.asarray(text.is_null().to_numpy(zero_copy_only=False))


def _codes(left: pa.Table, right: pa.Table, column: str) -> tuple[Ids, Ids, int]:
    parts = [normalized(table, [column]) for table in (left, right)]
    values = pa.concat_arrays(parts).dictionary_encode()
    ids = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return ids[: left.num_rows], ids[left.num_rows :], len(values.dictionary)


def numbers(table: pa.Table, column: str) -> Floats:
    """Return a column as numbers, NaN where there is none; of text, the first number in it."""
    if column not in table.schema.names:
        raise UnknownNameError("column", column, table.schema.names)
    values = table[column].combine_chunks()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        text = pc.replace_substring(values.cast(pa.string()), ",", "")
        found = pc.extract_regex(text, r"(?P<number>-?\d+(?:\.\d+)?)")
        values = pc.struct_field(found, [0])
    return np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False))
