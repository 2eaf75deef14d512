"""Runs of rows in a file: merge sorted rows into runs, and read or write the runs without the interpreter's lock.

The system calls are made from compiled code, so a busy interpreter delays no request and any number of threads can
keep the disk's queue full.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit, types

_pread: Callable[..., int] = types.ExternalFunction(
    "pread", types.int64(types.int32, types.uintp, types.uintp, types.int64)
)
_pwrite: Callable[..., int] = types.ExternalFunction(
    "pwrite", types.int64(types.int32, types.uintp, types.uintp, types.int64)
)
_memcpy: Callable[..., int] = types.ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))
"""Copies a row several times faster than a compiled slice."""


@njit(cache=True, nogil=True)
def merge_runs(
    rows: np.ndarray, row_bytes: int, offset: int, align: int, gap_bytes: int, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge sorted rows into runs of bytes.

    Args:
        rows: Rows in ascending order, int64 `[S]`; may repeat.
        row_bytes: Bytes of one row.
        offset: Where row 0 begins.
        align: Runs begin and end at multiples of this.
        gap_bytes: Largest gap that is read along.
        limit: Most bytes of a run; one row with its alignment always fits.

    Returns:
        Where each run begins in `rows`, with S at the end, int64 `[R + 1]`; and its bytes, `[start, stop)`.
    """
    first = np.empty(len(rows) + 1, np.int64)
    start, stop = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    runs = 0
    for i in range(len(rows)):
        begin = offset + rows[i] * row_bytes
        low, high = begin // align * align, (begin + row_bytes + align - 1) // align * align
        if runs and low <= stop[runs - 1] + gap_bytes and high - start[runs - 1] <= limit:
            stop[runs - 1] = high
            continue
        first[runs], start[runs], stop[runs] = i, low, high
        runs += 1
    first[runs] = len(rows)
    return first[: runs + 1], start[:runs], stop[:runs]


def merge_runs_reference(
    rows: np.ndarray, row_bytes: int, offset: int, align: int, gap_bytes: int, limit: int
) -> list[tuple[int, int, int]]:
    """State what `merge_runs` must compute: (first row, start, stop) of each run."""
    runs: list[tuple[int, int, int]] = []
    for i, row in enumerate(rows.tolist()):
        begin = offset + row * row_bytes
        low, high = begin // align * align, -(-(begin + row_bytes) // align) * align
        if runs and low - runs[-1][2] <= gap_bytes and high - runs[-1][1] <= limit:
            runs[-1] = (*runs[-1][:2], high)
        else:
            runs.append((i, low, high))
    return runs


@njit(cache=True, nogil=True)
def read_runs(
    fd: int,
    rows: np.ndarray,
    places: np.ndarray,
    first: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    row_bytes: int,
    offset: int,
    end: int,
    out: np.ndarray,
    buffer: np.ndarray,
    part: int,
    parts: int,
) -> int:
    """Read every `parts`-th run from `part` on, and copy its rows to their places.

    Args:
        fd: An open file.
        rows: Sorted rows.
        places: Row of `out` that each goes to.
        first: Where each run begins in `rows`, then their number.
        start: First byte of each run.
        stop: Its last byte, exclusive; may lie beyond `end`.
        row_bytes: Bytes of one row.
        offset: Where row 0 begins.
        end: Where the last row of the file ends.
        out: The result as bytes, uint8 `[rows of the result * row_bytes]`.
        buffer: Room for the longest run, aligned as the file wants it.
        part: The share of this thread.
        parts: Number of threads.

    Returns:
        The run that could not be read, or -1.
    """
    for run in range(part, len(start), parts):
        needed, got = min(stop[run], end) - start[run], 0
        while got < needed:
            done = _pread(fd, buffer.ctypes.data + got, stop[run] - start[run] - got, start[run] + got)
            if done <= 0:
                return run
            got += done
        for i in range(first[run], first[run + 1]):
            source, target = offset + rows[i] * row_bytes - start[run], places[i] * row_bytes
            _memcpy(out.ctypes.data + target, buffer.ctypes.data + source, row_bytes)
    return -1


@njit(cache=True, nogil=True)
def write_runs(fd: int, rows: np.ndarray, values: np.ndarray, row_bytes: int, offset: int) -> int:
    """Write rows, ascending and distinct, whose bytes lie end to end in `values`; adjacent ones in one request.

    Returns:
        The first row's index of the run that could not be written, or -1.
    """
    begin = 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and rows[end] == rows[end - 1] + 1:
            end += 1
        size, done = (end - begin) * row_bytes, 0
        while done < size:
            wrote = _pwrite(
                fd, values.ctypes.data + begin * row_bytes + done, size - done, offset + rows[begin] * row_bytes + done
            )
            if wrote <= 0:
                return begin
            done += wrote
        begin = end
    return -1


@njit(cache=True, nogil=True)
def append_rows(
    fd: int,
    rows: np.ndarray,
    cursor: np.ndarray,
    stop: np.ndarray,
    begin: int,
    end: int,
    data: np.ndarray,
    place: int,
    row_bytes: int,
    buffers: np.ndarray,
    filled: np.ndarray,
    wrote: np.ndarray,
) -> bool:
    """Append a chunk's rows to the windows that want them; a window's buffer is written when it or the window is full.

    Args:
        fd: An open file; windows are written at multiples of the buffers' size from where each begins.
        rows: Rows of all windows end to end, ascending in each.
        cursor: The next row of each window in `rows`, int64 `[W]`; moved on.
        stop: Where each window ends in `rows`.
        begin: First row of the chunk.
        end: Its last, exclusive.
        data: The chunk's rows as bytes, and maybe some before and after.
        place: Where row `begin` lies in them.
        row_bytes: Bytes of one row.
        buffers: One a window, uint8 `[W, B]`; aligned as the file wants it.
        filled: Bytes in each buffer; moved on.
        wrote: Where each window's next bytes go in the file; moved on.

    Returns:
        Whether the file could not be written.
    """
    room = buffers.shape[1]
    for window in range(len(cursor)):
        at, last, buffer = cursor[window], stop[window], buffers[window]
        if at == last:
            continue
        fill = filled[window]
        while at < last and rows[at] < end:
            source, left = place + (rows[at] - begin) * row_bytes, row_bytes
            while left:
                part = min(left, room - fill)
                _memcpy(buffer.ctypes.data + fill, data.ctypes.data + source, part)
                source, left, fill = source + part, left - part, fill + part
                if fill == room:
                    if not _write_whole(fd, buffer, room, wrote[window]):
                        return True
                    wrote[window] += room
                    fill = 0
            at += 1
        if at == last and fill:
            if not _write_whole(fd, buffer, (fill + 4095) // 4096 * 4096, wrote[window]):
                return True
            fill = 0
        cursor[window], filled[window] = at, fill
    return False


@njit(cache=True, nogil=True)
def _write_whole(fd: int, buffer: np.ndarray, size: int, place: int) -> bool:
    done = 0
    while done < size:
        wrote = _pwrite(fd, buffer.ctypes.data + done, size - done, place + done)
        if wrote <= 0:
            return False
        done += wrote
    return True


@njit(cache=True, nogil=True)
def read_along(fd: int, address: int, size: int, needed: int, place: int) -> bool:
    """Read consecutive bytes of a file to an address.

    Args:
        fd: An open file.
        address: Of the first byte's room.
        size: Bytes asked for, rounded up as the file wants it.
        needed: Bytes that must come: the file may end after them.
        place: Where they lie in the file.

    Returns:
        Whether they came.
    """
    got = 0
    while got < needed:
        done = _pread(fd, address + got, size - got, place + got)
        if done <= 0:
            return False
        got += done
    return True
