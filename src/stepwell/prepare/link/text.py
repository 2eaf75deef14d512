"""Text as linkage sees it: normalised strings, their code points, and bags of words or letter groups with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError, UnknownNameError

Floats = npt.NDArray[np.float64]
Unit = Literal["words", "grams", "codes"]
_BITS = 21  # of one code point
_LEFT_OUT = r"\pM+|['`" + "\u2019]"  # accents, and apostrophes, which part no words


def normalized(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """Return the columns as one text a row: small letters and digits without accents, single blanks between words.

    Rows in which nothing is left are null. Numbers and times are written as text first.

    Raises:
        UnknownNameError: If the table lacks a column.

    Cost: a few passes over the text, in Arrow.
    """
    parts = []
    for name in columns:
        if name not in table.schema.names:
            raise UnknownNameError("column", name, table.schema.names)
        parts.append(_plain(table[name].combine_chunks().cast(pa.string())))
    text = parts[0] if len(parts) == 1 else pc.utf8_trim_whitespace(pc.binary_join_element_wise(*parts, " "))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _plain(text: pa.Array) -> pa.Array:
    """Return normalised text without nulls; `""` stands for them, since Arrow's join drops rows of nulls alone."""
    text = pc.fill_null(text, "")
    text = pc.replace_substring_regex(pc.utf8_normalize(text, "NFKD"), _LEFT_OUT, "")
    text = pc.replace_substring_regex(pc.utf8_lower(text), r"[^\pL\pN]+", " ")
    return pc.utf8_trim_whitespace(text)


@dataclass(frozen=True)
class Strings:
    """Code points of all strings, one after the other.

    Args:
        codes: int32 code points.
        bounds: int64, where each string begins, and the end; a null is an empty string.
    """

    codes: npt.NDArray[np.int32]
    bounds: Ids

    @staticmethod
    def of(text: pa.Array) -> Strings:
        """Take the strings of an Arrow array."""
        filled = pc.fill_null(text, "")
        lengths = pc.utf8_length(filled).to_numpy(zero_copy_only=False)
        bounds = np.zeros(len(filled) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        return Strings(np.frombuffer("".join(filled.to_pylist()).encode("utf-32-le"), np.int32), bounds)


@dataclass(frozen=True)
class Bags:
    """Weighted bags of terms, one a row: a CSR matrix whose rows have length one, or zero if they are empty.

    Args:
        indptr: int64, where each row begins, and the end.
        ids: int64 terms, ascending within a row.
        weights: float64, (1 + ln count) ln(1 + rows / rows with the term), divided by the row's length.
    """

    indptr: Ids
    ids: Ids
    weights: Floats

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: slice) -> Bags:
        begin, end, _ = rows.indices(len(self))
        first, last = self.indptr[begin], self.indptr[end]
        return Bags(self.indptr[begin : end + 1] - first, self.ids[first:last], self.weights[first:last])


@dataclass(frozen=True)
class Vocabulary:
    """The bags of two texts over one set of terms.

    Args:
        left: Bags of the left rows.
        right: Bags of the right rows.
        size: How many terms there are.
        words: The terms as text, by id; None for letter groups.
    """

    left: Bags
    right: Bags
    size: int
    words: pa.Array | None


def bags(left: pa.Array, right: pa.Array, unit: Unit = "grams") -> Vocabulary:
    """Weigh the terms of two normalised texts.

    Args:
        left: Text of the left rows.
        right: Text of the right rows.
        unit: `"words"`; `"grams"` for groups of three letters, a blank before and behind each text included; `"codes"`
            for words with a digit in them (model numbers, versions, years).

    Raises:
        InvalidValueError: If `unit` is none of these.

    References:
        G. Salton, C. Buckley, "Term-weighting approaches in automatic text retrieval", 1988.

    Cost: O(T log T) for T terms in all rows.
    """
    if unit not in ("words", "grams", "codes"):
        raise InvalidValueError("unit", unit, "'words', 'grams' or 'codes'")
    text = pa.chunked_array([left, right], pa.string()).combine_chunks()
    text = text if isinstance(text, pa.Array) else pa.concat_arrays(text.chunks)
    rows, terms, size, words = _grams(text) if unit == "grams" else _words(text, codes=unit == "codes")
    both = _weigh(rows, terms, len(text), size)
    return Vocabulary(both[: len(left)], both[len(left) :], size, words)


def _words(text: pa.Array, *, codes: bool) -> tuple[Ids, Ids, int, pa.Array]:
    lists = pc.split_pattern(pc.fill_null(text, ""), " ")
    words = pc.list_flatten(lists)
    rows = pc.list_parent_indices(lists)
    keep = pc.match_substring_regex(words, r"\pN") if codes else pc.not_equal(words, "")
    words, rows = words.filter(keep).dictionary_encode(), rows.filter(keep)
    ids = words.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return rows.to_numpy(zero_copy_only=False).astype(np.int64), ids, len(words.dictionary), words.dictionary


def _grams(text: pa.Array) -> tuple[Ids, Ids, int, None]:
    padded = pc.binary_join_element_wise(" ", pc.fill_null(text, ""), " ", "")
    strings = Strings.of(padded)
    codes, lengths = strings.codes.astype(np.int64), np.diff(strings.bounds)
    if len(codes) < 3:
        return np.empty(0, np.int64), np.empty(0, np.int64), 0, None
    keys = codes[:-2] << 2 * _BITS | codes[1:-1] << _BITS | codes[2:]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    inside = rows[:-2] == rows[2:]
    unique, ids = np.unique(keys[inside], return_inverse=True)
    return rows[:-2][inside], ids.astype(np.int64), len(unique), None


def _weigh(rows: Ids, terms: Ids, num_rows: int, num_terms: int) -> Bags:
    places, counts = np.unique(rows * max(1, num_terms) + terms, return_counts=True)
    rows, ids = np.divmod(places, max(1, num_terms))
    carriers = np.bincount(ids, minlength=num_terms)
    weights = (1 + np.log(counts)) * np.log1p(num_rows / np.maximum(1, carriers))[ids]
    indptr = np.zeros(num_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=indptr[1:])
    length = np.sqrt(np.bincount(rows, weights**2, num_rows))
    return Bags(indptr, ids, weights / length[rows])
