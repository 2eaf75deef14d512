"""A cache of prepared rows within a byte budget: decode or encode a row once, gather it ever after.

A shuffled epoch visits every row exactly once, so between two visits of a row stand about all others. Under such
a pattern no online policy beats keeping *any* fixed set of C rows: the hit rate from the second epoch on is C / N,
while least-recently-used falls below it (a scan evicts rows just before they are due). So rows stay in the order in
which they came, until the budget is full, and nothing is ever evicted. Values never change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels import gather_rows
from stepwell.storage.arena import Arena

Fields = Mapping[str, npt.NDArray[np.generic]]
_SLOT_BYTES = 4


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache did so far.

    Args:
        hits: Rows found.
        misses: Rows that had to be computed.
        rows: Rows held now.
        size_bytes: Bytes reserved now, tables of slots included.
        budget_bytes: Bytes it may reserve.
    """

    hits: int
    misses: int
    rows: int
    size_bytes: int
    budget_bytes: int

    @property
    def hit_rate(self) -> float:
        """Share of rows found, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class RowCache:
    """Rows of several array fields, kept while they fit.

    *Guarantee*: `read` returns what `compute` returns for those rows, whatever the budget; the arrays reserved never
    exceed `budget_bytes`. Reading from several threads is safe; two threads that miss one row both compute it.

    Args:
        num_rows: Rows of the source; row ids are in `[0, num_rows)`.
        budget_bytes: Bytes for rows and bookkeeping (4 bytes for each row of the source). 0 keeps nothing.

    Raises:
        InvalidValueError: If the budget is negative.

    Cost:
        A hit is one gather a field; a miss costs the computation and one copy.
    """

    def __init__(self, num_rows: int, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise InvalidValueError("budget_bytes", budget_bytes, "at least 0")
        self.num_rows, self.budget_bytes = num_rows, budget_bytes
        self._lock, self._arena = threading.Lock(), Arena()
        self._slot: npt.NDArray[np.int32] | None = None
        self._store: dict[str, npt.NDArray[np.generic]] = {}
        self._capacity = -1
        self._held = self._hits = self._misses = 0

    @property
    def counts(self) -> CacheCounts:
        """What it did so far."""
        slots = 0 if self._slot is None else self._slot.nbytes
        size = slots + sum(array.nbytes for array in self._store.values())
        return CacheCounts(self._hits, self._misses, self._held, size, self.budget_bytes)

    def read(self, rows: Ids, compute: Callable[[Ids], Fields]) -> Fields:
        """Return the fields of these rows, computing those that are not held.

        Args:
            rows: int64 `[B]`.
            compute: Returns arrays `[len(rows), ...]` for some rows; each row's values depend on that row alone.
        """
        if self._slot is None:
            missing = np.ones(len(rows), bool)
        elif self._held == self.num_rows:
            self._count(len(rows), 0)
            return self._gather(rows)
        else:
            slot = self._slot[rows]
            missing = slot < 0
        misses = int(missing.sum())
        self._count(len(rows) - misses, misses)
        if misses == len(rows):
            fields = compute(rows)
            self._keep(rows, fields)
            return fields
        held = self._gather(np.where(missing, 0, slot).astype(np.int64))
        if misses:
            fields = compute(rows[missing])
            self._keep(rows[missing], fields)
            return {name: _filled(array, missing, fields[name]) for name, array in held.items()}
        return held

    def _gather(self, slots: Ids) -> Fields:
        shapes = {name: (len(slots), *array.shape[1:]) for name, array in self._store.items()}
        return {
            name: gather_rows(array, slots, self._arena.empty(shapes[name], array.dtype))
            for name, array in self._store.items()
        }

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses

    def _keep(self, rows: Ids, fields: Fields) -> None:
        with self._lock:
            if self._capacity < 0 and len(rows):
                self._reserve(fields)
            if self._slot is None or self._held >= self._capacity:
                return
            if not all(np.can_cast(fields[name].dtype, array.dtype) for name, array in self._store.items()):
                return  # wider than what is held (longer texts): computed anew each time, and never cut
            _, first = np.unique(rows, return_index=True)
            first = np.sort(first[self._slot[rows[first]] < 0])[: self._capacity - self._held]
            if self._capacity == self.num_rows:
                slots = rows[first].astype(np.int32)
            else:
                slots = np.arange(self._held, self._held + len(first), dtype=np.int32)
            for name, array in self._store.items():
                array[slots] = fields[name][first]
            self._slot[rows[first]] = slots
            self._held += len(first)

    def _reserve(self, fields: Fields) -> None:
        """Reserve the arrays once the width of a row is known."""
        width = sum(array[:1].nbytes for array in fields.values())
        room = (self.budget_bytes - _SLOT_BYTES * self.num_rows) // max(1, width)
        self._capacity = max(0, min(self.num_rows, room))
        if self._capacity:
            self._store = {name: np.empty((self._capacity, *a.shape[1:]), a.dtype) for name, a in fields.items()}
            self._slot = np.full(self.num_rows, -1, np.int32)


def _filled(
    array: npt.NDArray[np.generic], missing: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]
) -> npt.NDArray[np.generic]:
    """Return an array with the missing rows filled in, of a type that holds both (texts differ in length)."""
    wide = array if np.can_cast(values.dtype, array.dtype) else array.astype(np.result_type(array, values))
    wide[missing] = values
    return wide
