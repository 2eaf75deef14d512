"""Rows of a file laid out anew in the order in which they will be asked for: read once, written once, read once.

An epoch asks for windows of rows, each spread over the whole file. Reading them window by window costs one request for
almost every row, or reads most of the file for every window. A database partitions instead: one pass over the file, in
its order, appends each row to every window that wants it, and then a window is one consecutive read. A window can be
read as soon as the pass has seen its last row. Batches in the order of time ask for the past alone, so the pass runs
ahead of training rather than before it.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import DataError
from stepwell.core.settings import settings
from stepwell.kernels.file_rows import append_rows, read_along
from stepwell.storage.row_reads import DiskRows

Array = npt.NDArray[np.generic]
Rows = npt.NDArray[np.int32]

PAGE = 4096
"""What direct reads and writes are aligned to, whatever the device."""
_CHUNK_BYTES = 32 << 20
_BUFFER_BYTES = 1 << 20
_READ_BYTES = 4 << 20
_SPARE = 1.1  # of the disk that must stay free


class Partition:
    """The windows of one epoch in a scratch file without a name, which is gone when this object or the process is.

    Guarantee: `read(w)` gives the rows of window w as the file below held them when the pass read them.

    Args:
        below: The file; direct, so that the page cache holds none of what passes.
        windows: Distinct rows of each window, ascending.
        scratch: Descriptor of an empty file for the windows, which this object closes.
        chunk_bytes: Of the file, read at once; two chunks are held.
        buffer_bytes: Of each window, written at once; a multiple of 4096.

    Cost:
        Every wanted row is read once, written once for each window that wants it, and read once more; 1 MiB a window
        and 64 MiB.
    """

    def __init__(
        self,
        below: DiskRows,
        windows: Sequence[Rows],
        scratch: int,
        *,
        chunk_bytes: int = _CHUNK_BYTES,
        buffer_bytes: int = _BUFFER_BYTES,
    ) -> None:
        self._below, self._fd, self._chunk_bytes, self._buffer_bytes = below, scratch, chunk_bytes, buffer_bytes
        self._close = weakref.finalize(self, os.close, scratch)
        size = np.array([len(rows) for rows in windows], np.int64)
        self._rows = np.concatenate([np.zeros(0, np.int32), *windows])
        self._stop = np.cumsum(size)
        self._cursor = self._stop - size
        self._size = size
        self._place = np.concatenate([[0], np.cumsum(padded_bytes(size, below.row_bytes))])
        self._changed, self._left = threading.Condition(), threading.Event()
        self._failed: BaseException | None = None
        self._readers = ThreadPoolExecutor(4, "window")
        self._pass = threading.Thread(target=_run, args=(weakref.ref(self),), name="partition", daemon=True)
        self._pass.start()

    @property
    def size_bytes(self) -> int:
        """Bytes of the scratch file."""
        return int(self._place[-1])

    def read(self, window: int, out: Array) -> Array:
        """Wait until the pass has seen a window's last row, and return its rows.

        Args:
            window: Its number.
            out: Room from `aligned_rows`; its first rows are returned.

        Raises:
            DataError: If the file or the scratch file cannot be read or written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failed is not None or self._cursor[window] == self._stop[window])
        if self._failed is not None:
            raise self._failed
        rows = out[: self._size[window]]
        wanted = rows.nbytes
        size = -(-wanted // PAGE) * PAGE
        start = out.ctypes.data
        parts = [(begin, min(_READ_BYTES, size - begin)) for begin in range(0, size, _READ_BYTES)]
        tasks = [
            self._readers.submit(read_along, self._fd, start + begin, length, length, int(self._place[window]) + begin)
            for begin, length in parts
        ]
        if not all(task.result() for task in tasks):
            raise _torn("could not be read")
        return rows

    def close(self) -> None:
        """Stop the pass and give the disk back."""
        self._left.set()
        self._fail(_torn("was closed"))
        if self._pass is not threading.current_thread():
            self._pass.join()
        self._readers.shutdown()
        self._close()

    def _after(self, row: int) -> int | None:
        """Return the first row from `row` on that a window wants."""
        left = [
            int(self._rows[low + np.searchsorted(self._rows[low:high], row)])
            for low, high in zip((self._stop - self._size).tolist(), self._stop.tolist(), strict=True)
            if high > low and self._rows[high - 1] >= row
        ]
        return min(left, default=None)

    def _append(self, begin: int, end: int, data: Array, place: int, *state: npt.NDArray[np.generic]) -> None:
        """Append a chunk to the windows, and tell who waits for one that is whole."""
        cursor = self._cursor.copy()
        row_bytes = self._below.row_bytes
        if append_rows(self._fd, self._rows, cursor, self._stop, begin, end, data, place, row_bytes, *state):
            raise _torn("could not be written")
        with self._changed:
            self._cursor[:] = cursor
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failed = self._failed or error
            self._changed.notify_all()


def _run(found: weakref.ref[Partition]) -> None:
    """Pass over the file; a partition that nobody holds ends it."""
    made = found()
    if made is None:
        return
    windows, row_bytes = len(made._size), made._below.row_bytes
    step = max(1, made._chunk_bytes // row_bytes)
    buffers = aligned_rows(max(1, windows), (made._buffer_bytes,), np.dtype(np.uint8))
    filled, wrote = np.zeros(windows, np.int64), made._place[:-1].copy()
    chunks = deque(aligned_rows(step * row_bytes + 2 * PAGE, (), np.dtype(np.uint8)) for _ in range(2))
    with ThreadPoolExecutor(1, "chunk") as ahead:
        pending, start = None, made._after(0)
        while start is not None or pending is not None:
            made = made or found()
            if made is None or made._left.is_set():
                return
            try:
                following = None
                if start is not None:
                    following = ahead.submit(_read_chunk, made, start, start + step, chunks[0])
                    start = made._after(start + step)
                if pending is not None:
                    begin, place, data = pending.result()
                    made._append(begin, begin + step, data, place, buffers, filled, wrote)
            except BaseException as error:  # told to whoever waits for a window
                made._fail(error)
                return
            pending, made = following, None
            chunks.rotate(1)


def _read_chunk(made: Partition, begin: int, end: int, chunk: Array) -> tuple[int, int, Array]:
    """Read rows `[begin, end)` of the file, and return the first, the byte at which it lies, and the bytes."""
    below = made._below
    end = min(end, len(below))
    first, last = below.offset + begin * below.row_bytes, below.offset + end * below.row_bytes
    low = first // PAGE * PAGE
    below.read_bytes(low, last, chunk)
    return begin, first - low, chunk


def _torn(problem: str) -> DataError:
    return DataError(
        *("the scratch file of a placement", problem, "a disk that keeps what is written"),
        "check the disk, or set STEPWELL_SCRATCH to a folder on another one, or to off.",
    )


def padded_bytes(rows: npt.NDArray[np.int64], row_bytes: int) -> npt.NDArray[np.int64]:
    """Return the bytes that windows of so many rows take in the scratch file."""
    return -(-rows * row_bytes // PAGE) * PAGE


def aligned_rows(rows: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Return room for rows that direct reads can fill: it begins at a page and ends with one."""
    count = rows * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    room = mmap.mmap(-1, max(PAGE, -(-count // PAGE) * PAGE))
    if hasattr(mmap, "MADV_HUGEPAGE"):  # fewer pages to pin for each direct read and write, and to look up for each row
        with suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(room, np.uint8)[:count].view(dtype).reshape(rows, *shape)


def open_scratch(beside: Path, size_bytes: int) -> int | None:
    """Open a nameless file of so many bytes past the page cache, or return None where the disk has no room for it.

    Args:
        beside: The file whose folder it goes to unless `STEPWELL_SCRATCH` names another; `off` there means never.
        size_bytes: Reserved at once, so that the disk cannot run full later.
    """
    chosen = settings().scratch
    if chosen == "off" or not hasattr(os, "O_DIRECT"):
        return None
    folder = Path(chosen) if chosen else beside.parent
    try:
        if shutil.disk_usage(folder).free < size_bytes * _SPARE:
            return None
        name = folder / f".stepwell-scratch-{uuid.uuid4().hex}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DIRECT, 0o600)
    except OSError:  # read only, or a file system that has no direct writes
        return None
    name.unlink()
    try:
        os.posix_fallocate(fd, 0, max(PAGE, size_bytes))
    except OSError:  # full, or a quota
        os.close(fd)
        return None
    return fd
