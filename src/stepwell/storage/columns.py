"""Columns of a dense batch that are no plain array: strings by code, and values of varying length.

Both are small frozen records over flat arrays, so they move between threads and devices without a Python
object per row, and stages work on them with one kernel call a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.kernels.dense import gather_spans


@dataclass(frozen=True, slots=True)
class Ragged:
    """B byte strings of varying length, end to end.

    Args:
        offset: Where each begins and, last, where all end, int64 `[B + 1]`.
        data: All bytes, uint8 `[offset[-1]]`.
        text: Whether the bytes are UTF-8 text (`tolist` then gives `str`).

    Example:
        >>> Ragged.of(["to be", "or not"]).tolist()
        ['to be', 'or not']
    """

    offset: Ids
    data: npt.NDArray[np.uint8]
    text: bool = False

    @classmethod
    def of(cls, values: Sequence[str] | Sequence[bytes]) -> Ragged:
        """Return the record of some Python values."""
        parts = [value.encode() if isinstance(value, str) else value for value in values]
        offset = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offset[1:])
        data = np.frombuffer(b"".join(parts), np.uint8)
        return cls(offset, data, text=bool(len(values)) and isinstance(values[0], str))

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.offset.nbytes + self.data.nbytes)

    def take(self, rows: Ids) -> Ragged:
        """Return the given rows, in that order; rows may repeat.

        Cost:
            O(bytes returned), in parallel.
        """
        return Ragged(*gather_spans(self.offset, self.data, rows), self.text)

    def tolist(self) -> list[str] | list[bytes]:
        """Return Python values, one a row."""
        raw, cut = np.asarray(self.data).tobytes(), np.asarray(self.offset).tolist()
        parts = [raw[a:b] for a, b in pairwise(cut)]
        return [part.decode() for part in parts] if self.text else parts


class Dictionary:
    """The distinct strings of a column; code `i` means `values[i]`. Shared by all batches, never copied."""

    __slots__ = ("_code", "values")

    def __init__(self, values: Sequence[str]) -> None:
        self.values = tuple(values)
        self._code = {value: code for code, value in enumerate(self.values)}

    def __len__(self) -> int:
        return len(self.values)

    def code(self, value: str) -> int:
        """Return the code of a string, -1 if the column has none such."""
        return self._code.get(value, -1)


@dataclass(frozen=True, slots=True)
class Codes:
    """B strings of a column with few distinct ones.

    Args:
        code: int32 `[B]`, -1 where the value is missing.
        dictionary: What the codes mean.
    """

    code: npt.NDArray[np.int32]
    dictionary: Dictionary = field(repr=False)

    def __len__(self) -> int:
        return len(self.code)

    @property
    def nbytes(self) -> int:
        """Bytes held (the shared dictionary not counted)."""
        return int(self.code.nbytes)

    def take(self, rows: Ids) -> Codes:
        """Return the given rows, in that order."""
        return Codes(self.code[rows], self.dictionary)

    def tolist(self) -> list[str | None]:
        """Return Python strings, one a row, None where missing."""
        values = self.dictionary.values
        return [values[code] if code >= 0 else None for code in np.asarray(self.code).tolist()]

    def ragged(self) -> Ragged:
        """Return the strings as bytes; a missing one is empty."""
        return Ragged.of([value or "" for value in self.tolist()])
