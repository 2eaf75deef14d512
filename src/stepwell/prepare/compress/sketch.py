"""Quantiles of a stream in bounded memory, all columns at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stepwell.core import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter


class QuantileSketch:
    """A sketch of each column of a stream of rows: sorted points with weights, from which any quantile can be read.

    Full levels are sorted column by column, every second point (from a random start) goes up a level at double weight.

    Guarantee: the rank of a point is off by less than `log2(n / k + 1) / k` of the rows, and about the root of that
    many compactions on average; the same rows in the same order give the same sketch.

    Args:
        columns: Columns of a row.
        k: Points of a level, even.
        seed: For the random starts.

    Cost:
        `k log2(n / k)` floats a column; sorting, about `log2(k)` operations a value.

    References:
        Manku, Rajagopalan, Lindsay, SIGMOD 1998; Karnin, Lang, Liberty, "Optimal quantile approximation in streams",
        FOCS 2016. Differs: levels of one size, so that all columns share one layout.
    """

    def __init__(self, columns: int, k: int = 256, seed: int = 0) -> None:
        if k < 2 or k % 2:
            raise InvalidValueError("k", k, "even and at least 2")
        self.columns, self.k, self.num_rows = columns, k, 0
        self._seed, self._turns = seed, 0
        self._levels: list[npt.NDArray[np.float32]] = [np.empty((0, columns), np.float32)]

    def add(self, rows: npt.NDArray[np.generic]) -> None:
        """Take rows in, finite numbers `[N, F]`."""
        given = np.asarray(rows, np.float32).reshape(len(rows), -1)
        if given.shape[1] != self.columns or not np.isfinite(given).all():
            raise InvalidValueError("rows", given.shape, f"finite numbers in {self.columns} columns")
        for begin in range(0, len(given), self.k):
            part = given[begin : begin + self.k]
            self.num_rows += len(part)
            self._levels[0] = np.concatenate([self._levels[0], part])
            self._settle()

    def _settle(self) -> None:
        level = 0
        while level < len(self._levels):
            if len(self._levels[level]) >= self.k:
                whole = np.sort(self._levels[level], axis=0)
                even = len(whole) - len(whole) % 2
                bit = Draw(self._seed, "sketch").integers(np.array([self._turns]), 1, 2)[0, 0]
                self._turns += 1
                if level + 1 == len(self._levels):
                    self._levels.append(np.empty((0, self.columns), np.float32))
                self._levels[level + 1] = np.concatenate([self._levels[level + 1], whole[bit:even:2]])
                self._levels[level] = whole[even:]
            level += 1

    def points(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Return the points `[P, F]` and the weight of each row of points `[P]`; weights sum to the rows taken in."""
        weight = [np.full(len(part), float(2**level)) for level, part in enumerate(self._levels)]
        return np.concatenate(self._levels), np.concatenate(weight)

    def rank_error(self) -> float:
        """Return the share of the rows by which no rank is off by more."""
        return len(self._levels) / self.k if len(self._levels) > 1 else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in self._levels)

    def save(self, writer: StateWriter) -> None:
        writer.value("sketch", [self.columns, self.k, self.num_rows, self._seed, self._turns, len(self._levels)])
        for level, part in enumerate(self._levels):
            writer.tensor(f"level/{level}", part)

    def load(self, reader: StateReader) -> None:
        values = reader.value("sketch")
        if not isinstance(values, list) or values[:2] != [self.columns, self.k]:
            raise InvalidValueError("sketch", values, f"one of {self.columns} columns and {self.k} points a level")
        self.num_rows, self._seed, self._turns, levels = (int(str(value)) for value in values[2:])
        self._levels = [reader.tensor(f"level/{level}").numpy() for level in range(levels)]
