"""Builds the T-CSR's rows in memory-mapped files within a byte budget, and merges late events into built ones.

A scatter of events into rows jumps through the whole index, which is slow on pages of a file. So the nodes are cut
into ranges whose entries fit a private buffer; each range reads all events in order, scatters its own entries as
16-byte records into the buffer (one cache line an entry instead of three), and writes them out in order. Ranges are
independent, so threads share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue

import numba
import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.storage.derived import ArrayWriter
from stepwell.storage.index import TemporalCSR

Int32s = npt.NDArray[np.int32]

_RECORD_BYTES = 16
_CURSOR_BYTES = 4
_THREAD_BYTES = 64 << 20
"""A thread with less than this reads the events too often."""
_SPARE_BYTES = 128 << 20
"""Left for the interpreter's own growth (threads, compiled code) out of a budget above twice as much."""


@dataclass(frozen=True)
class SortedEvents:
    """Events in order of their positions; the arrays may be memory-mapped.

    Args:
        src: int32 `[E]`.
        dst: int32 `[E]`.
        time: int64 `[E]`, ascending.
        num_nodes: N; ids are within `[0, N)`.
        directed: Whether an event is seen from its source only.
    """

    src: Int32s
    dst: Int32s
    time: Ids
    num_nodes: int
    directed: bool = False


def build_rows(events: SortedEvents, writer: ArrayWriter, *, budget_bytes: int, num_threads: int | None = None) -> None:
    """Write `indptr`, `neighbor`, `event` and `time` of an index.

    Args:
        events: The events.
        writer: Where the arrays go.
        budget_bytes: Private memory to use; mapped pages of files do not count. Smaller budgets read the events
            more often.
        num_threads: Threads that share the ranges; by default torch's number, fewer for a small budget.

    Raises:
        InvalidValueError: If an id is outside `[0, N)`.
        OSError: If the disk has no room.

    Cost: `1 + 16 M / budget` passes over the events, for M entries; every byte of the index is written once.
    """
    num_threads = num_threads or max(1, min(torch.get_num_threads(), budget_bytes // _THREAD_BYTES))
    indptr = writer.create("indptr", (events.num_nodes + 1,), np.int64)
    _each(lambda bounds: _count_all(events, bounds, indptr[1:]), _parts(events.num_nodes, num_threads), num_threads)
    _accumulate(indptr)
    size = int(indptr[-1])
    neighbor, event, row_time = _entries(writer, size)
    room = max(budget_bytes - _SPARE_BYTES, budget_bytes // 2) // num_threads
    ranges = _ranges(indptr, room)
    longest = max(
        (int(indptr[high] - indptr[low]) for low, high in ranges if not _alone(indptr, low, high, room)), default=0
    )
    # A buffer's pages cost more to obtain than to fill, so each thread's is used for one range after the other.
    buffers: SimpleQueue[npt.NDArray[np.int64]] = SimpleQueue()
    for _ in range(num_threads):
        buffers.put(np.empty((longest, 2), np.int64))

    def fill(bounds: tuple[int, int]) -> None:
        low, high = bounds
        first, last = int(indptr[low]), int(indptr[high])
        place = np.s_[first:last]
        if _alone(indptr, low, high, room):
            _write_row(
                events.src,
                events.dst,
                events.time,
                events.directed,
                low,
                neighbor[place],
                event[place],
                row_time[place],
            )
            return
        cursor = (indptr[low:high] - first).astype(np.int32)
        buffer = buffers.get()
        records = buffer[: last - first]
        _scatter(events.src, events.dst, events.time, events.directed, low, high, cursor, records)
        _unpack(records, neighbor[place], event[place], row_time[place])
        buffers.put(buffer)

    _each(fill, ranges, num_threads)


def _alone(indptr: Ids, low: int, high: int, room: int) -> bool:
    """Say whether a range is one node whose row exceeds the buffer; its writes are in order anyway."""
    return high == low + 1 and int(indptr[high] - indptr[low]) * _RECORD_BYTES + _CURSOR_BYTES > room


def _each(work: Callable[[tuple[int, int]], None], parts: Iterable[tuple[int, int]], num_threads: int) -> None:
    """Run `work` on every part, on threads; the kernels release the interpreter's lock."""
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(work, parts):
            pass


def _entries(writer: ArrayWriter, size: int) -> tuple[Int32s, Int32s, Ids]:
    """Create the arrays of an index's entries: neighbour, event and time."""
    ends = writer.create("neighbor", (size,), np.int32), writer.create("event", (size,), np.int32)
    return *ends, writer.create("time", (size,), np.int64)


def _parts(num_nodes: int, count: int) -> list[tuple[int, int]]:
    edges = [num_nodes * part // count for part in range(count + 1)]
    return list(pairwise(edges))


def _count_all(events: SortedEvents, bounds: tuple[int, int], degree: Ids) -> None:
    bad = _count(events.src, events.dst, events.directed, *bounds, events.num_nodes, degree)
    if bad >= 0:
        ends = int(events.src[bad]), int(events.dst[bad])
        raise InvalidValueError("src, dst", ends, f"within 0 and {events.num_nodes} (event {bad})")


def _ranges(indptr: Ids, room: int) -> list[tuple[int, int]]:
    """Cut the nodes into ranges whose records and cursors fit `room`; a node that alone does not stands alone."""
    ranges, low, num_nodes = [], 0, len(indptr) - 1
    while low < num_nodes:
        high = _fitting(indptr, low, room, _RECORD_BYTES, _CURSOR_BYTES)
        ranges.append((low, high))
        low = high
    return ranges


def update_rows(old: TemporalCSR, moved: Int32s, late: SortedEvents, positions: Ids, writer: ArrayWriter) -> None:
    """Write the index of a newer version by merging late events into an older one's rows.

    Args:
        old: The older index.
        moved: New position of each old one, int32 `[E_old]`, -1 for a deleted event; ascending otherwise.
        late: The late events, with N and direction of the newer version.
        positions: Their positions in the newer version, ascending.
        writer: Where the arrays go.

    Cost: one pass over the old index and one over the late events; what was sorted is not sorted again.
    """
    fresh = TemporalCSR.from_events(late.src, late.dst, late.time, num_nodes=late.num_nodes, directed=late.directed)
    place = positions.astype(np.int32)
    indptr = writer.create("indptr", (late.num_nodes + 1,), np.int64)
    _count_merged(old.indptr, old.event, moved, fresh.indptr, indptr)
    size = int(indptr[-1])
    neighbor, event, row_time = _entries(writer, size)
    before = (old.indptr, old.neighbor, old.event, old.time)
    added = (fresh.indptr, fresh.neighbor, fresh.event, fresh.time)
    _merge(before, moved, added, place, (indptr, neighbor, event, row_time))


# Compiled ---------------------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _count(src, dst, directed, low, high, num_nodes, degree):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(len(src)):
        a, b = src[i], dst[i]
        if a < 0 or b < 0 or a >= num_nodes or b >= num_nodes:
            return i
        if low <= a < high:
            degree[a] += 1
        if a != b and not directed and low <= b < high:
            degree[b] += 1
    return -1


@numba.njit(cache=True, nogil=True)
def _accumulate(indptr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for node in range(1, len(indptr)):
        indptr[node] += indptr[node - 1]


@numba.njit(cache=True, nogil=True)
def _fitting(indptr, low, room, record_bytes, cursor_bytes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    high = low + 1
    while (
        high < len(indptr) - 1
        and (indptr[high + 1] - indptr[low]) * record_bytes + (high + 1 - low) * cursor_bytes <= room
    ):
        high += 1
    return high


@numba.njit(cache=True, nogil=True)
def _scatter(src, dst, time, directed, low, high, cursor, records):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(len(src)):
        a, b = src[i], dst[i]
        if low <= a < high:
            place = cursor[a - low]
            cursor[a - low] = place + 1
            records[place, 0] = (np.int64(b) << 32) | i
            records[place, 1] = time[i]
        if low <= b < high and a != b and not directed:
            place = cursor[b - low]
            cursor[b - low] = place + 1
            records[place, 0] = (np.int64(a) << 32) | i
            records[place, 1] = time[i]


@numba.njit(cache=True, nogil=True)
def _unpack(records, neighbor, event, row_time):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for place in range(len(records)):
        neighbor[place] = records[place, 0] >> 32
        event[place] = records[place, 0] & 0x7FFFFFFF
        row_time[place] = records[place, 1]


@numba.njit(cache=True, nogil=True)
def _write_row(src, dst, time, directed, node, neighbor, event, row_time):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    place = 0
    for i in range(len(src)):
        a, b = src[i], dst[i]
        if a == node or (b == node and not directed):
            neighbor[place], event[place], row_time[place] = (b if a == node else a), i, time[i]
            place += 1


@numba.njit(cache=True, nogil=True)
def _count_merged(indptr, event, moved, fresh, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for node in range(len(out) - 1):
        count = fresh[node + 1] - fresh[node]
        if node < len(indptr) - 1:
            for place in range(indptr[node], indptr[node + 1]):
                if moved[event[place]] >= 0:
                    count += 1
        out[node + 1] = out[node] + count


@numba.njit(cache=True, nogil=True)
def _merge(old, moved, fresh, place, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for node in range(len(out[0]) - 1):
        i, i_end = (old[0][node], old[0][node + 1]) if node < len(old[0]) - 1 else (0, 0)
        j, j_end = fresh[0][node], fresh[0][node + 1]
        for o in range(out[0][node], out[0][node + 1]):
            while i < i_end and moved[old[2][i]] < 0:
                i += 1
            if j == j_end or (i < i_end and moved[old[2][i]] < place[fresh[2][j]]):
                out[1][o], out[2][o], out[3][o] = old[1][i], moved[old[2][i]], old[3][i]
                i += 1
            else:
                out[1][o], out[2][o], out[3][o] = fresh[1][j], place[fresh[2][j]], fresh[3][j]
                j += 1
