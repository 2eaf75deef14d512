"""Rows that are known to be asked for, read beforehand: many batches' worth in one pass over the file.

A planned tier knows which rows each batch will miss. Read batch by batch these lie far apart, one request a row. Read
for a window of many batches at once, in the order of the file, near ones share a request; and a row that several
batches of the window miss is read once. While one window is used, the next is read in the background.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from stepwell.buffer.tiers import Array, Backing
from stepwell.core.batch import Ids


@dataclass(slots=True)
class _Window:
    """Distinct rows of some batches, ascending, and where they are read to."""

    rows: Ids
    batches: int
    read: Future[Array]


class Sweep:
    """A backing whose requests are foreseen, over one that takes them in windows.

    Guarantee: `read` gives the rows of the backing below, whatever was foreseen; what was not is read when it is asked
    for. At most `capacity` rows are held, in two halves.

    Args:
        below: All rows; nobody else may write it while rows are held.
        capacity: Rows held.

    Cost:
        One request below a window; a `read` is one search a row in its window.
    """

    def __init__(self, below: Backing, capacity: int) -> None:
        self.shape, self.dtype, self._below = below.shape, below.dtype, below
        self._expected: Iterator[Ids] = iter(())
        self._half = max(0, capacity // 2)
        room = (2, self._half, *self.shape[1:])
        self._rooms: deque[Array] = deque(np.empty(room, self.dtype))
        self._marks = np.zeros(self.shape[0], np.bool_)
        self._ahead: Ids | None = None  # the batch that did not fit into the latest window
        self._pool = ThreadPoolExecutor(1, "sweep")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._now: _Window | None = None
        self._next: _Window | None = None
        self._limit = 0

    def begin(self, expected: Iterator[Ids]) -> None:
        """Forget what is held and begin to read what will be asked for.

        Args:
            expected: The distinct rows of each `read` to come, in order.
        """
        if self._next is not None:
            self._next.read.result()
        self._expected, self._ahead, self._now, self._limit = expected, None, None, self._half // 32
        self._next = self._start()

    def _start(self) -> _Window | None:
        """Begin to read the next window; the first ones are small, so that the first batch need not wait for long."""
        found: list[Ids] = [np.zeros(0, np.int64)]
        count = batches = 0
        while (rows := self._following()) is not None:
            fresh = mark(rows, self._marks)
            if batches and count + len(fresh) > self._limit:
                self._marks[fresh] = False
                self._ahead = rows
                break
            batches += 1
            if len(fresh) > self._half:  # more than fits: left to the backing, a window of nothing
                self._marks[fresh] = False
                break
            found.append(fresh)
            count += len(fresh)
        if not batches:
            return None
        self._limit = min(self._half, 2 * self._limit + 1)
        window = np.sort(np.concatenate(found))
        self._marks[window] = False
        self._rooms.rotate(1)
        return _Window(window, batches, self._pool.submit(self._fill, window, self._rooms[0]))

    def _following(self) -> Ids | None:
        rows, self._ahead = self._ahead, None
        return next(self._expected, None) if rows is None else rows

    def _fill(self, rows: Ids, room: Array) -> Array:
        return self._below.read(rows, room[: len(rows)], np.arange(len(rows)))

    def read(self, rows: Ids, out: Array, places: Ids) -> Array:
        """Copy rows to `out[places]` and return `out`."""
        if self._now is None or self._now.batches == 0:
            self._now = self._next
            if self._now is not None:
                self._now.read.result()  # also: one window is read at a time
                self._next = self._start()
        window = self._now
        if window is None:
            return self._below.read(rows, out, places)
        window.batches -= 1
        found = np.searchsorted(window.rows, rows)
        here = window.rows[np.minimum(found, len(window.rows) - 1)] == rows if len(window.rows) else rows < 0
        out[places[here]] = window.read.result()[found[here]]
        if not here.all():
            self._below.read(rows[~here], out, places[~here])
        return out

    def write(self, rows: Ids, values: Array) -> None:
        """Change rows below and, where they are held, here."""
        self._below.write(rows, values)
        for window in (self._now, self._next):
            if window is not None and len(window.rows):
                held = window.read.result()
                place = np.minimum(np.searchsorted(window.rows, rows), len(window.rows) - 1)
                here = window.rows[place] == rows
                held[place[here]] = values[here]

    def flush(self) -> None:
        """Make what was written durable."""
        self._below.flush()


@njit(cache=True, nogil=True)
def mark(rows: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Mark rows and return those that were not marked."""
    fresh = np.empty(len(rows), np.int64)
    count = 0
    for row in rows:
        if not marks[row]:
            marks[row] = True
            fresh[count] = row
            count += 1
    return fresh[:count]
