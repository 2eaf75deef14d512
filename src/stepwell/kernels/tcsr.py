"""The temporal index (T-CSR): for each node its incident events, oldest first, by one counting sort.

Rows are built by counting degrees and then walking the events once in time order, each event moving the cursor of
its two nodes. The walk is the same for a whole log and for one chunk of it, so a log larger than memory is built
in two passes over its chunks: `count_degrees` for all, then `fill_tcsr_chunk` for all.

References:
    Zhou et al., "TGL: A general framework for temporal GNN training on billion-scale graphs", VLDB 2022, section 3.1.
"""

from __future__ import annotations

from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError

Ints: TypeAlias = npt.NDArray[np.integer]


def build_tcsr(
    src: Ints, dst: Ints, time: Ids, num_nodes: int, *, directed: bool = False
) -> tuple[Ids, Ints, Ints, Ids]:
    """Index events by node, then time.

    Guarantee: within a row positions ascend, so times never descend; events of equal time keep their order. A
    self-loop stands once. Every event stands in the row of its source and, unless `directed`, of its destination.

    Args:
        src: Source nodes, `[E]`, in `[0, num_nodes)`.
        dst: Destination nodes, `[E]`.
        time: Times, int64 `[E]`. If they descend anywhere, positions are those of the stably sorted log,
            `np.argsort(time, kind="stable")`.
        num_nodes: N.
        directed: Whether only the source sees an event.

    Returns:
        `indptr` int64 `[N + 1]`; `neighbor`, `event` (positions) and `time` `[M]`, row `v` at
        `indptr[v]:indptr[v + 1]`. Neighbours and positions are int32 wherever they fit.

    Raises:
        InvalidValueError: If lengths differ or a node lies outside `[0, num_nodes)`.

    Cost:
        O(E + N), three passes; a sort of E times more if they are not sorted.
    """
    src, dst, time = np.ascontiguousarray(src), np.ascontiguousarray(dst), np.ascontiguousarray(time, dtype=np.int64)
    if not len(src) == len(dst) == len(time):
        raise InvalidValueError("src, dst and time", (len(src), len(dst), len(time)), "of one length")
    if len(time) > 1 and bool((time[1:] < time[:-1]).any()):
        order = np.argsort(time, kind="stable")
        src, dst, time = src[order], dst[order], time[order]
    degree = np.zeros(num_nodes, np.int64)
    count_degrees(src, dst, degree, directed=directed)
    indptr = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(degree, out=indptr[1:])
    size = int(indptr[-1])
    neighbor = np.empty(size, narrowest(num_nodes))
    event = np.empty(size, narrowest(len(src)))
    row_time = np.empty(size, np.int64)
    fill_tcsr_chunk(src, dst, time, 0, indptr[:-1].copy(), neighbor, event, row_time, directed=directed)
    return indptr, neighbor, event, row_time


def narrowest(bound: int) -> type[np.int32] | type[np.int64]:
    """Return the narrowest index type that holds `[0, bound)`: int32 or int64."""
    return np.int32 if bound <= 2**31 else np.int64


def count_degrees(src: Ints, dst: Ints, out: Ids, *, directed: bool = False) -> None:
    """Add each node's number of index entries among these events to `out`; the first pass over a chunk.

    Args:
        src: Source nodes, `[E]`.
        dst: Destination nodes, `[E]`.
        out: Degrees so far, int64 `[N]`, changed in place.
        directed: Whether only the source sees an event.

    Raises:
        InvalidValueError: If a node lies outside `[0, N)`; `out` then holds the events before it.

    Cost:
        O(E), nothing allocated.
    """
    src, dst = np.ascontiguousarray(src), np.ascontiguousarray(dst)
    bad = _count(src, dst, out, directed)
    if bad >= 0:
        raise InvalidValueError(f"src, dst of event {bad}", (int(src[bad]), int(dst[bad])), f"in [0, {len(out)})")


def fill_tcsr_chunk(
    src: Ints,
    dst: Ints,
    time: Ids,
    first: int,
    cursor: Ids,
    neighbor: Ints,
    event: Ints,
    row_time: Ids,
    *,
    directed: bool = False,
) -> None:
    """Write one chunk of events into the rows; the second pass. Chunks come in the order of their positions.

    Args:
        src: Source nodes, `[C]`, already counted by `count_degrees`.
        dst: Destination nodes, `[C]`.
        time: Times, int64 `[C]`, ascending, also across chunks.
        first: Position of the chunk's first event.
        cursor: Next free place of each row, int64 `[N]`, moved in place; `indptr[:-1].copy()` before the first chunk.
        neighbor: Neighbours, `[M]`, written in place; may be a memory map, like the two below.
        event: Positions, `[M]`, written in place.
        row_time: Times, int64 `[M]`, written in place.
        directed: Whether only the source sees an event.

    Cost:
        O(C) reads in order, up to 2 C writes at the rows' cursors; nothing allocated.
    """
    src, dst, time = np.ascontiguousarray(src), np.ascontiguousarray(dst), np.ascontiguousarray(time)
    neighbor, event, row_time = np.asarray(neighbor), np.asarray(event), np.asarray(row_time)
    _fill(src, dst, time, first, cursor, neighbor, event, row_time, directed)


@numba.njit(cache=True, nogil=True)
def _count(src, dst, out, directed):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    num_nodes = len(out)
    for i in range(len(src)):
        a, b = src[i], dst[i]
        if a < 0 or b < 0 or a >= num_nodes or b >= num_nodes:
            return i
        out[a] += 1
        if a != b and not directed:
            out[b] += 1
    return -1


@numba.njit(cache=True, nogil=True)
def _fill(src, dst, time, first, cursor, neighbor, event, row_time, directed):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(len(src)):
        a, b = src[i], dst[i]
        place = cursor[a]
        cursor[a] = place + 1
        neighbor[place], event[place], row_time[place] = b, first + i, time[i]
        if a != b and not directed:
            place = cursor[b]
            cursor[b] = place + 1
            neighbor[place], event[place], row_time[place] = a, first + i, time[i]
