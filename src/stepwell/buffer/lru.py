"""Evict the row that no batch has touched for longest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stepwell.buffer.planned import check_capacity
from stepwell.buffer.policy import Moves, Replacement, policies
from stepwell.buffer.queues import Queues, push, remove
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids


@policies.register("lru")
@dataclass(frozen=True, slots=True)
class LRU:
    """Keep the rows touched last. All that a batch touches enters while there are older residents to leave.

    Rows of one batch are equally recent: residents stay, then the first ones of the batch enter.

    Args:
        memory: Bytes over all families.

    Cost:
        O(1) a row touched; 25 bytes a row of the family.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It is online."""
        return False

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Return the empty tier."""
        check_capacity(capacity)
        return _Recency(num_rows, capacity)


class _Recency:
    def __init__(self, num_rows: int, capacity: int) -> None:
        self._queues, self._capacity, self._batch = Queues.empty(num_rows, 1), capacity, 0

    def step(self, ids: Ids) -> Moves:
        """Take the distinct rows that the next batch touched and return who comes and goes."""
        q, batch = self._queues, self._batch
        self._batch += 1
        ids = np.asarray(ids, np.int64)
        return Moves(*_step(ids, q.link, q.where, q.size, q.touched, self._capacity, batch))


@njit(cache=True, nogil=True)
def _step(
    ids: np.ndarray,
    link: np.ndarray,
    where: np.ndarray,
    size: np.ndarray,
    touched: np.ndarray,
    capacity: int,
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    admit, evict = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    admitted = evicted = 0
    for row in ids:
        touched[row] = batch
        if where[row] == 0:
            remove(link, where, size, row)
            push(link, where, size, row, 0)
    for row in ids:
        if where[row] == 0:
            continue
        if size[0] >= capacity:
            oldest = link[1, len(where)]
            if capacity == 0 or touched[oldest] == batch:
                break
            remove(link, where, size, oldest)
            evict[evicted] = oldest
            evicted += 1
        push(link, where, size, row, 0)
        admit[admitted] = row
        admitted += 1
    return admit[:admitted], evict[:evicted]
