"""Rows that are known to be asked for, read beforehand: many batches' worth in one pass over the file.

A planned tier knows which rows each batch will miss. Read batch by batch these lie far apart, one request a row. Read
for a window of many batches at once, in the order of the file, near ones share a request; and a row that several
batches of the window miss is read once. While one window is used, the next is read in the background. Where the rows
of a window still lie too far apart, all windows of the epoch are laid out anew in one pass (`Partition`).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from stepwell.buffer.partition import Partition, Rows, aligned_rows, open_scratch, padded_bytes
from stepwell.buffer.tiers import Array, Backing
from stepwell.core.batch import Ids
from stepwell.kernels.gather import copy_rows
from stepwell.storage.row_reads import DiskRows


@dataclass(slots=True)
class _Window:
    """Distinct rows of some batches, ascending, and where they are read to."""

    rows: Rows
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
        4 bytes a row of the family and 4 a foreseen row. One request below a window, or the cost of a `Partition`,
        whichever moves less: a request counts as much as the gap that is read along rather than skipped.
    """

    def __init__(self, below: Backing, capacity: int) -> None:
        self.shape, self.dtype, self._below = below.shape, below.dtype, below
        self._half = max(0, capacity // 2)
        self._rooms = deque(aligned_rows(self._half, self.shape[1:], self.dtype) for _ in range(2))
        self._place: Rows = np.full(self.shape[0], -1, np.int32)  # of each row in the window in use
        self._pool = ThreadPoolExecutor(1, "sweep")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._windows: deque[tuple[int, Rows, int]] = deque()
        self._now: _Window | None = None
        self._next: _Window | None = None
        self._partition: Partition | None = None

    @property
    def laid_out_bytes(self) -> int:
        """Bytes of this epoch's rows that were or will be written to a scratch file; 0 if none are."""
        return 0 if self._partition is None else self._partition.size_bytes

    def begin(self, expected: Iterator[Ids]) -> None:
        """Forget what is held and begin to read what will be asked for.

        Args:
            expected: The distinct rows of each `read` to come, in order.
        """
        if self._next is not None:
            self._next.read.result()
        if self._now is not None:
            self._place[self._now.rows] = -1
        self._leave_partition()
        self._now = None
        found = list(self._cut(expected))
        self._windows = deque((number, rows, batches) for number, (rows, batches) in enumerate(found))
        self._partition = _partition(self._below, [rows for rows, _ in found])
        self._next = self._start()

    def _cut(self, expected: Iterator[Ids]) -> Iterator[tuple[Rows, int]]:
        """Cut the batches to come into windows; the first are small, so that the first batch need not wait for long."""
        limit, found, count, batches = self._half // 32, [np.zeros(0, np.int64)], 0, 0
        for rows in expected:
            fresh = mark(rows, self._place)
            if batches and count + len(fresh) > limit:
                self._place[fresh] = -1
                yield self._window(found), batches
                limit, found, count, batches = min(self._half, 2 * limit + 1), [np.zeros(0, np.int64)], 0, 0
                fresh = mark(rows, self._place)
            batches += 1
            if len(fresh) <= self._half:
                found.append(fresh)
                count += len(fresh)
            else:  # more than fits: left to the backing, a window of nothing
                self._place[fresh] = -1
        if batches:
            yield self._window(found), batches

    def _window(self, found: list[Ids]) -> Rows:
        rows = np.sort(np.concatenate(found).astype(np.int32))
        self._place[rows] = -1
        return rows

    def _start(self) -> _Window | None:
        """Begin to read the next window."""
        if not self._windows:
            return None
        number, rows, batches = self._windows.popleft()
        self._rooms.rotate(1)
        return _Window(rows, batches, self._pool.submit(self._fill, number, rows, self._rooms[0]))

    def _fill(self, number: int, rows: Rows, room: Array) -> Array:
        if self._partition is not None:
            return self._partition.read(number, room)
        return self._below.read(rows.astype(np.int64), room[: len(rows)], np.arange(len(rows)))

    def _advance(self) -> None:
        """Use the next window, and begin to read the one after."""
        if self._now is not None:
            self._place[self._now.rows] = -1
        self._now = self._next
        if self._now is not None:
            self._now.read.result()  # also: one window is read at a time
            self._next = self._start()
            self._place[self._now.rows] = np.arange(len(self._now.rows), dtype=np.int32)

    def read(self, rows: Ids, out: Array, places: Ids) -> Array:
        """Copy rows to `out[places]` and return `out`."""
        if self._now is None or self._now.batches == 0:
            self._advance()
        if self._now is None:
            return self._below.read(rows, out, places)
        self._now.batches -= 1
        found = self._place[rows]
        here = found >= 0
        if here.all():
            copy_rows(self._now.read.result(), found, out, places)
        else:
            copy_rows(self._now.read.result(), found[here], out, places[here])
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
        self._leave_partition()  # its copies are old now: windows to come are read from below

    def flush(self) -> None:
        """Make what was written durable."""
        self._below.flush()

    def _leave_partition(self) -> None:
        if self._partition is not None:
            self._partition.close()
            self._partition = None


def _partition(below: Backing, windows: Sequence[Rows]) -> Partition | None:
    """Lay the windows out anew if that moves less than reading each from below, and the disk has room."""
    if not isinstance(below, DiskRows) or not below.direct:  # the page cache is no place for a second copy
        return None
    size_bytes = int(padded_bytes(np.array([len(rows) for rows in windows], np.int64), below.row_bytes).sum())
    apart = sum(below.cost_bytes(rows.astype(np.int64)) for rows in windows)
    span = max((int(rows[-1]) for rows in windows if len(rows)), default=0)
    if apart <= span * below.row_bytes + 2 * size_bytes:
        return None
    scratch = open_scratch(below.path, size_bytes)
    return None if scratch is None else Partition(below, windows, scratch)


@njit(cache=True, nogil=True)
def mark(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Mark rows whose place is -1 and return them."""
    fresh = np.empty(len(rows), np.int64)
    count = 0
    for row in rows:
        if place[row] < 0:
            place[row] = 0
            fresh[count] = row
            count += 1
    return fresh[:count]
