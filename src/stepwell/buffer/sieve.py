"""SIEVE: first in, first out, but a hand spares the rows that were touched since it last passed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stepwell.buffer.planned import check_capacity
from stepwell.buffer.policy import Moves, Replacement, policies
from stepwell.buffer.queues import Queues, push, remove
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids


@policies.register("sieve")
@dataclass(frozen=True, slots=True)
class SIEVE:
    """Evict the oldest row that was not touched since the hand last passed it. Rows of the batch itself stay.

    Args:
        memory: Bytes over all families.

    Cost:
        O(1) a row touched, amortised; 26 bytes a row of the family.

    References:
        Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It is online."""
        return False

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Return the empty tier."""
        check_capacity(capacity)
        return _Hand(num_rows, capacity)


class _Hand:
    def __init__(self, num_rows: int, capacity: int) -> None:
        self._queues, self._capacity, self._batch = Queues.empty(num_rows, 1), capacity, 0
        self._spared, self._hand = np.zeros(num_rows, np.bool_), np.full(1, num_rows, np.int64)

    def step(self, ids: Ids) -> Moves:
        """Take the distinct rows that the next batch touched and return who comes and goes."""
        q, batch = self._queues, self._batch
        self._batch += 1
        ids = np.asarray(ids, np.int64)
        state = (q.link, q.where, q.size, q.touched, self._spared, self._hand)
        return Moves(*_step(ids, *state, self._capacity, batch))


@njit(cache=True, nogil=True)
def _step(
    ids: np.ndarray,
    link: np.ndarray,
    where: np.ndarray,
    size: np.ndarray,
    touched: np.ndarray,
    spared: np.ndarray,
    hand: np.ndarray,
    capacity: int,
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    admit, evict = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    admitted = evicted = 0
    sentinel = len(where)
    for row in ids:
        touched[row] = batch
        if where[row] == 0:
            spared[row] = True
    for row in ids:
        if where[row] == 0:
            continue
        if size[0] >= capacity:
            at = hand[0]
            victim = sentinel
            for _ in range(2 * size[0] + 2):
                if at == sentinel:
                    at = link[1, sentinel]
                    continue
                if spared[at] and touched[at] != batch:
                    spared[at] = False
                elif touched[at] != batch:
                    victim = at
                    break
                at = link[1, at]
            if victim == sentinel:
                break
            hand[0] = link[1, victim]
            remove(link, where, size, victim)
            evict[evicted] = victim
            evicted += 1
        push(link, where, size, row, 0)
        spared[row] = False
        admit[admitted] = row
        admitted += 1
    return admit[:admitted], evict[:evicted]
