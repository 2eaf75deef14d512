"""What the batches of an epoch touch in one column family: known beforehand, as samplers and negatives are keyed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numba import njit

from stepwell.core.batch import Ids


@dataclass(frozen=True, eq=False)
class Trace:
    """The distinct rows that each of T batches touches, batch after batch.

    Args:
        ids: Rows, int64 `[A]`; distinct within a batch.
        indptr: Where each batch begins in `ids`, int64 `[T + 1]`.
        num_rows: Rows of the family; ids are in `[0, num_rows)`.
        row_bytes: Bytes of one row.
        count: How often the batch's samples name each row before deduplication, int64 `[A]`, or None if once.
        writes: True where the batch also rewrites the row (node state), `[A]`, or None if it writes nothing.
        reads: True where the batch needs the row, `[A]`, or None if everywhere. False where it only makes the row anew
            (an embedding that is refreshed): an older copy is then of no use.

    Cost:
        8 bytes an access, 8 more once `next_use` is asked for.
    """

    ids: Ids
    indptr: Ids
    num_rows: int
    row_bytes: int
    count: Ids | None = None
    writes: npt.NDArray[np.bool_] | None = None
    reads: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, batches: Iterable[Ids], num_rows: int, row_bytes: int = 1) -> Trace:
        """Collect the distinct ids of each batch of an epoch.

        Args:
            batches: Each batch's rows, distinct within it.
            num_rows: Rows of the family.
            row_bytes: Bytes of one row.
        """
        parts = [np.asarray(ids, np.int64) for ids in batches]
        indptr = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int64), *parts]), indptr, num_rows, row_bytes)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def batch(self, index: int) -> Ids:
        """Return the rows that batch `index` touches."""
        return self.ids[self.indptr[index] : self.indptr[index + 1]]

    def since(self, start: int) -> Trace:
        """Return the trace from batch `start` on, as a resumed epoch sees it."""
        begin = self.indptr[start]
        parts = (None if part is None else part[begin:] for part in (self.count, self.writes, self.reads))
        return Trace(self.ids[begin:], self.indptr[start:] - begin, self.num_rows, self.row_bytes, *parts)  # type: ignore[arg-type]

    @cached_property
    def next_use(self) -> Ids:
        """The next batch that needs each access's row as it is now, int64 `[A]`; T where there is none.

        A batch that makes the row anew without reading it ends the use of older copies. O(A + num_rows).
        """
        reads = np.ones(0, np.bool_) if self.reads is None else self.reads
        return _next_use(self.ids, self.indptr, reads, self.num_rows)


def next_use_reference(trace: Trace) -> Ids:
    """State, one access at a time, what `Trace.next_use` must be."""
    found = np.full(len(trace.ids), len(trace), np.int64)
    batch_of = np.repeat(np.arange(len(trace)), np.diff(trace.indptr))
    for place, row in enumerate(trace.ids):
        later = np.flatnonzero((trace.ids == row) & (batch_of > batch_of[place]))
        if len(later) and (trace.reads is None or trace.reads[later[0]]):
            found[place] = batch_of[later[0]]
    return found


@njit(cache=True, nogil=True)
def _next_use(ids: np.ndarray, indptr: np.ndarray, reads: np.ndarray, num_rows: int) -> np.ndarray:
    num_batches = len(indptr) - 1
    seen = np.full(num_rows, num_batches, np.int64)
    found = np.empty(len(ids), np.int64)
    for batch in range(num_batches - 1, -1, -1):
        for place in range(indptr[batch], indptr[batch + 1]):
            found[place] = seen[ids[place]]
            seen[ids[place]] = batch if len(reads) == 0 or reads[place] else num_batches
    return found
