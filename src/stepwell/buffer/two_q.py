"""2Q: a row must come back after it has left a first queue before it is kept among the recent ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from stepwell.buffer.planned import check_capacity
from stepwell.buffer.policy import Moves, Replacement, policies
from stepwell.buffer.queues import Queues, push, remove
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError

_IN, _MAIN, _OUT = 0, 1, 2  # first queue and main queue hold rows, the last one only remembers


@policies.register("2q")
@dataclass(frozen=True, slots=True)
class TwoQ:
    """The full version of 2Q: new rows queue first in, first out; those asked again soon after join the recent ones.

    Args:
        memory: Bytes over all families.
        first: Share of the capacity that the first queue keeps once the tier is full.
        remembered: Rows that left the first queue and are remembered, as a share of the capacity.

    Raises:
        InvalidValueError: If a share is negative, or `first` is above 1.

    Cost:
        O(1) a row touched; 25 bytes a row of the family.

    References:
        Johnson and Shasha, "2Q: a low overhead high performance buffer management replacement algorithm", VLDB 1994.
    """

    memory: int | str = "1GiB"
    first: float = 0.25
    remembered: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.first <= 1:
            raise InvalidValueError("first", self.first, "between 0 and 1")
        if self.remembered < 0:
            raise InvalidValueError("remembered", self.remembered, "at least 0")

    @property
    def foresight(self) -> bool:
        """It is online."""
        return False

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Return the empty tier."""
        check_capacity(capacity)
        return _Queued(num_rows, capacity, round(self.first * capacity), round(self.remembered * capacity))


class _Queued:
    def __init__(self, num_rows: int, capacity: int, first: int, remembered: int) -> None:
        self._queues, self._limits, self._batch = Queues.empty(num_rows, 3), (capacity, first, remembered), 0

    def step(self, ids: Ids) -> Moves:
        """Take the distinct rows that the next batch touched and return who comes and goes."""
        q, batch = self._queues, self._batch
        self._batch += 1
        return Moves(*_step(np.asarray(ids, np.int64), q.link, q.where, q.size, q.touched, self._limits, batch))


@njit(cache=True, nogil=True)
def _victim(link: np.ndarray, where: np.ndarray, size: np.ndarray, touched: np.ndarray, first: int, batch: int) -> int:
    """Return who leaves: from the first queue if it is too long, else from the main one; -1 if the batch holds all."""
    order = (_IN, _MAIN) if size[_IN] > first else (_MAIN, _IN)
    for queue in order:
        last = link[1, len(where) + queue]
        if last < len(where) and touched[last] != batch:
            return int(last)
    return -1


@njit(cache=True, nogil=True)
def _step(
    ids: np.ndarray,
    link: np.ndarray,
    where: np.ndarray,
    size: np.ndarray,
    touched: np.ndarray,
    limits: tuple[int, int, int],
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    capacity, first, remembered = limits
    admit, evict = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    admitted = evicted = 0
    found = np.zeros(len(ids), np.bool_)
    for place, row in enumerate(ids):
        found[place] = where[row] == _IN or where[row] == _MAIN
        if where[row] == _MAIN:
            remove(link, where, size, row)
            push(link, where, size, row, _MAIN)
            touched[row] = batch
    for place, row in enumerate(ids):
        if found[place]:
            continue
        if size[_IN] + size[_MAIN] >= capacity:
            victim = _victim(link, where, size, touched, first, batch) if capacity else -1
            if victim < 0:
                break
            forgets = where[victim] == _MAIN
            remove(link, where, size, victim)
            if not forgets:
                push(link, where, size, victim, _OUT)
            evict[evicted] = victim
            evicted += 1
        known = where[row] == _OUT
        if known:
            remove(link, where, size, row)
        push(link, where, size, row, _MAIN if known else _IN)
        touched[row] = batch
        admit[admitted] = row
        admitted += 1
        while size[_OUT] > remembered:
            remove(link, where, size, link[1, len(where) + _OUT])
    return admit[:admitted], evict[:evicted]
