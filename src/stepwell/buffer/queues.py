"""Queues of rows linked through arrays: what the online policies are made of.

Queue `q` is a ring through its sentinel `num_rows + q`; `link[0]` points to the next row behind, `link[1]` to the next
ahead. A row stands in at most one queue: `where[row]` is its number, -1 if in none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from stepwell.core.batch import Ids


@dataclass(frozen=True, slots=True)
class Queues:
    """Some queues over the rows of a family.

    Args:
        link: Neighbours in the rings, int64 `[2, num_rows + Q]`.
        where: The queue of each row, int8 `[num_rows]`, -1 for none.
        size: Rows in each queue, int64 `[Q]`.
        touched: The batch that touched each row last, int64 `[num_rows]`, -1 for none.
    """

    link: Ids
    where: npt.NDArray[np.int8]
    size: Ids
    touched: Ids

    @classmethod
    def empty(cls, num_rows: int, num_queues: int) -> Queues:
        """Return empty queues. O(num_rows)."""
        link = np.empty((2, num_rows + num_queues), np.int64)
        link[:, num_rows:] = np.arange(num_rows, num_rows + num_queues)
        where, touched = np.full(num_rows, -1, np.int8), np.full(num_rows, -1, np.int64)
        return cls(link, where, np.zeros(num_queues, np.int64), touched)


@njit(cache=True, nogil=True)
def push(link: np.ndarray, where: np.ndarray, size: np.ndarray, row: int, queue: int) -> None:
    """Put a row that is in no queue to the front of one."""
    head = len(where) + queue
    first = link[0, head]
    link[0, row], link[1, row] = first, head
    link[0, head], link[1, first] = row, row
    where[row] = queue
    size[queue] += 1


@njit(cache=True, nogil=True)
def remove(link: np.ndarray, where: np.ndarray, size: np.ndarray, row: int) -> None:
    """Take a row out of its queue."""
    behind, ahead = link[0, row], link[1, row]
    link[0, ahead], link[1, behind] = behind, ahead
    size[where[row]] -= 1
    where[row] = -1
