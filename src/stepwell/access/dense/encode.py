"""Table columns as what a model eats: a matrix of standardised numbers, a matrix of category codes, a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stepwell.access.dense.stage import RowStage, without
from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import DataError, UnknownNameError
from stepwell.core.shapes import Source
from stepwell.kernels.dense import standardise
from stepwell.storage import Codes, Dictionary, Ragged

_FIT_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Encode(RowStage):
    """Table columns as two matrices: `x` of standardised numbers and `codes` of categories; and the label `y`.

    Made by `Encode.fit` from training rows only. Gives, for B rows:

    * `x` float32 `[B, F]`: numeric columns, `(value - mean) / deviation`; a missing value is 0 (the mean)
    * `codes` int64 `[B, G]`: string columns, 1 to V in the order of the sorted training values, 0 if missing or new
    * `y` the label: int64 codes from 0 for strings, the numbers themselves otherwise; `[B]`

    Only fields with a column are given. The columns it used leave the batch.

    Args:
        numeric: Number columns.
        categorical: String columns.
        label: The column to predict, or None.
        mean: One value a numeric column.
        deviation: One value a numeric column, 1 for a constant one.
        vocabulary: Sorted training values of each categorical column.
        classes: Sorted training values of a string label; empty for a numeric one.

    Cost:
        A few nanoseconds a cell; nothing per distinct value.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    label: str | None
    mean: npt.NDArray[np.float64] = field(repr=False)
    deviation: npt.NDArray[np.float64] = field(repr=False)
    vocabulary: tuple[tuple[str, ...], ...] = field(repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    _tables: dict[int, Ids] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(cls, source: Source, *, columns: Sequence[str] | None = None, label: str | None = None) -> Encode:
        """Learn means, deviations and vocabularies from the rows of `source`: pass training rows only.

        Args:
            source: A lake table, or any source of column fields.
            columns: Columns to encode; all but the label if None (text, byte and list columns are left out).
            label: The column to predict.

        Raises:
            UnknownNameError: If a column does not exist.
            DataError: If a named column is neither a number nor a string with few distinct values.

        Cost:
            One scan in row order.
        """
        fits: dict[str, _Fit] = {}
        for begin in range(0, len(source), _FIT_ROWS):
            batch = source.read(Slice(0, 0, begin, min(len(source), begin + _FIT_ROWS)))
            wanted = _wanted(batch, columns, label)
            for name in wanted:
                fits.setdefault(name, _Fit()).add(batch, name)
        numeric = tuple(n for n, f in fits.items() if n != label and not f.strings)
        categorical = tuple(n for n, f in fits.items() if n != label and f.strings)
        return cls(
            numeric=numeric,
            categorical=categorical,
            label=label,
            mean=np.array([fits[name].mean for name in numeric], np.float64),
            deviation=np.array([fits[name].deviation for name in numeric], np.float64),
            vocabulary=tuple(tuple(sorted(fits[name].seen)) for name in categorical),
            classes=tuple(sorted(fits[label].seen)) if label is not None and label in fits else (),
        )

    @property
    def needs(self) -> frozenset[str]:
        """The columns."""
        return frozenset((*self.numeric, *self.categorical, *((self.label,) if self.label else ())))

    @property
    def gives(self) -> frozenset[str]:
        """`x`, `codes` and `y`, each if it has a column."""
        parts = (("x", self.numeric), ("codes", self.categorical), ("y", self.label))
        return frozenset(name for name, used in parts if used)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each categorical column has, the 0 of the unknown included; for embedding tables."""
        return tuple(len(values) + 1 for values in self.vocabulary)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the matrices in the place of the columns."""
        found: dict[str, object] = {}
        if self.numeric:
            found["x"] = self._numbers(batch)
        if self.categorical:
            codes = np.empty((len(batch), len(self.categorical)), np.int64)
            for place, (name, values) in enumerate(zip(self.categorical, self.vocabulary, strict=True)):
                codes[:, place] = self._codes(batch, name, values)
            found["codes"] = codes
        if self.label is not None:
            found["y"] = self._label(batch, self.label)
        return without(batch, self.needs, found)

    def _numbers(self, batch: Batch) -> npt.NDArray[np.float32]:
        x = np.empty((len(batch), len(self.numeric)), np.float32)
        for place, name in enumerate(self.numeric):
            standardise(batch.array(name), self.mean[place], self.deviation[place], x[:, place])
            if f"{name}_valid" in batch:
                x[~batch.array(f"{name}_valid").astype(bool), place] = 0.0
        return x

    def _codes(self, batch: Batch, name: str, values: tuple[str, ...]) -> Ids:
        column = _codes_of(batch, name)
        table = self._tables.get(id(column.dictionary))
        if table is None or len(table) != len(column.dictionary) + 1:
            place = {value: code for code, value in enumerate(values, 1)}
            table = np.array([*(place.get(value, 0) for value in column.dictionary.values), 0], np.int64)
            if isinstance(batch[name], Codes):
                self._tables[id(column.dictionary)] = table
        return table[column.code]

    def _label(self, batch: Batch, name: str) -> npt.NDArray[np.generic]:
        if not self.classes:
            y = batch.array(name)
            return y.astype(np.int64 if y.dtype.kind in "biu" else np.float32)
        y = self._codes(batch, name, self.classes) - 1
        if len(y) and y.min() < 0:
            row = int(np.flatnonzero(y < 0)[0])
            raise DataError(
                f"column {name!r}, row {row} of batch {batch.slice.index}", "the label is missing or new since the fit",
                ", ".join(self.classes[:8]), "fit on rows that hold every class, or drop such rows",
            )  # fmt: skip
        return y


class _Fit:
    """What is learned of one column: moments by Chan's pairwise update, or the set of its strings."""

    def __init__(self) -> None:
        self.count, self.mean, self._square = 0, 0.0, 0.0
        self.strings = False
        self.seen: set[str] = set()

    @property
    def deviation(self) -> float:
        spread = (self._square / self.count) ** 0.5 if self.count else 0.0
        return spread if spread > 0 else 1.0

    def add(self, batch: Batch, name: str) -> None:
        value = batch[name]
        if isinstance(value, Codes | Ragged):
            self.strings = True
            column = _codes_of(batch, name)
            present = np.unique(np.asarray(column.code))
            self.seen.update(column.dictionary.values[code] for code in present[present >= 0].tolist())
            return
        array = batch.array(name).astype(np.float64)
        good = np.isfinite(array)
        if f"{name}_valid" in batch:
            good &= batch.array(f"{name}_valid").astype(bool)
        part = array[good]
        if not len(part):
            return
        mean, square = float(part.mean()), float(((part - part.mean()) ** 2).sum())
        total, delta = self.count + len(part), mean - self.mean
        self._square += square + delta**2 * self.count * len(part) / total
        self.mean += delta * len(part) / total
        self.count = total


def _wanted(batch: Batch, columns: Sequence[str] | None, label: str | None) -> list[str]:
    named = [*(columns or ()), *((label,) if label else ())]
    for name in named:
        if name not in batch:
            raise UnknownNameError("column", name, batch)
        value = batch[name]
        if (isinstance(value, Ragged) and not value.text) or (isinstance(value, np.ndarray) and value.ndim != 1):
            raise DataError(
                f"column {name!r}", "it holds bytes or lists", "a number or a string column",
                "leave it out of `columns`; `DecodeImage` reads images, list columns are matrices already",
            )  # fmt: skip
    if columns is not None:
        return named
    return [
        name
        for name in batch
        if isinstance(batch[name], Codes)
        or (isinstance(batch[name], np.ndarray) and batch.array(name).ndim == 1 and not _is_flag(name, batch))
    ]


def _is_flag(name: str, batch: Batch) -> bool:
    return name.endswith("_valid") and name.removesuffix("_valid") in batch


def _codes_of(batch: Batch, name: str) -> Codes:
    """Return a string column as codes; text is coded for this batch alone."""
    value = batch[name]
    if isinstance(value, Codes):
        return value
    strings = value.tolist() if isinstance(value, Ragged) else [str(item) for item in batch.array(name)]
    dictionary = Dictionary(sorted({str(item) for item in strings}))
    return Codes(np.array([dictionary.code(str(item)) for item in strings], np.int32), dictionary)
