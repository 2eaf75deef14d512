"""Keep the rows that most batches have touched so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stepwell.buffer.planned import check_capacity
from stepwell.buffer.policy import Moves, Replacement, policies
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids


@policies.register("lfu")
@dataclass(frozen=True, slots=True)
class LFU:
    """Keep the rows touched most often since the epoch began, residents or not; of equals, those touched last.

    Args:
        memory: Bytes over all families.

    Cost:
        O(capacity + rows touched) a step; 16 bytes a row of the family.
    """

    memory: int | str = "1GiB"

    @property
    def foresight(self) -> bool:
        """It is online."""
        return False

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Return the empty tier."""
        check_capacity(capacity)
        return _Frequency(num_rows, capacity)


class _Frequency:
    def __init__(self, num_rows: int, capacity: int) -> None:
        self._score = np.zeros(num_rows, np.float64)
        self._resident = np.zeros(num_rows, np.bool_)
        self._rows, self._capacity, self._batch = np.zeros(0, np.int64), capacity, 0

    def step(self, ids: Ids) -> Moves:
        """Take the distinct rows that the next batch touched and return who comes and goes."""
        ids = np.asarray(ids, np.int64)
        self._batch += 1
        # Whole part: how often; fraction: how lately.
        self._score[ids] = np.floor(self._score[ids]) + 2 - 1 / (self._batch + 1)
        fresh = ids[~self._resident[ids]]
        rows = np.concatenate([self._rows, fresh])
        if len(rows) > self._capacity:
            order = np.argsort(-self._score[rows], kind="stable")
            kept, gone = rows[order[: self._capacity]], rows[order[self._capacity :]]
        else:
            kept, gone = rows, rows[:0]
        was = self._resident[gone]
        evict = gone[was]
        self._resident[evict] = False
        self._rows = kept
        admit = kept[~self._resident[kept]]
        self._resident[admit] = True
        return Moves(admit, evict)
