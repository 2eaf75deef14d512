"""Rows of one file, read with real queue depth: sorted, merged into runs, many runs in flight, no page faults.

A memory map reads one page a fault, and each fault waits for the disk. Here the rows of a call are sorted, neighbours
are merged into runs (a small gap is read along, which is cheaper than a second request), and a pool of threads keeps
`depth` requests with the disk. Each thread copies the rows of a run to their places while the others still read.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.kernels.file_rows import merge_runs, read_along, read_runs, write_runs

_BLOCKS = (512, 4096)  # that devices have; direct reads begin and end at a multiple
_ALIGN = _BLOCKS[-1]
_LARGE = 4 << 20
Rows = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class ReadCounts:
    """What was read of a file so far.

    Args:
        rows: Rows asked for.
        requests: Reads sent to the operating system.
        size_bytes: Bytes they covered, gaps and alignment included.
        seconds: Wall seconds spent reading.
    """

    rows: int = 0
    requests: int = 0
    size_bytes: int = 0
    seconds: float = 0.0


class DiskRows:
    """The rows of a dense array in a file; safe to use from several threads, which take turns.

    Args:
        path: The file.
        dtype: Type of one element.
        shape: `[N, ...]`; rows are along the first axis, C-ordered.
        offset: Where row 0 begins in the file, in bytes.
        direct: Bypass the page cache (`O_DIRECT`), where the file system can; otherwise read through it.
        depth: Requests in flight.
        gap_bytes: A gap between rows of at most this size is read along.
        writable: Open for `write` too; then always through the page cache.

    Raises:
        InvalidValueError: If `depth` or `gap_bytes` is out of range, or `direct` and `writable` are both set.
        DataError: If the file is shorter than the rows need.

    Cost:
        A call sorts its rows and makes one request a run; memory is `depth` buffers of 256 KiB, or of one row if that
        is more. Nothing is kept of what was read.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: npt.DTypeLike,
        shape: tuple[int, ...],
        offset: int = 0,
        *,
        direct: bool = False,
        depth: int = 32,
        gap_bytes: int = 16 << 10,
        writable: bool = False,
    ) -> None:
        if depth < 1:
            raise InvalidValueError("depth", depth, "at least 1")
        if gap_bytes < 0:
            raise InvalidValueError("gap_bytes", gap_bytes, "at least 0")
        if direct and writable:
            raise InvalidValueError("direct", direct, "False for a writable file")
        self.path, self.dtype, self.shape, self.offset = Path(path), np.dtype(dtype), tuple(shape), offset
        if self.dtype.hasobject:
            raise InvalidValueError("dtype", self.dtype, "of fixed size")
        self.depth, self.gap_bytes = depth, gap_bytes
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._fd, self.direct = _open(self.path, direct=direct, writable=writable)
        self._close = weakref.finalize(self, os.close, self._fd)
        size, needed = os.fstat(self._fd).st_size, offset + self.shape[0] * self.row_bytes
        if size < needed:
            raise DataError(
                *(str(self.path), f"the file has {size} bytes", f"at least {needed}, for {self.shape} {self.dtype}"),
                "write it anew; it is torn, or of another shape or type.",
            )
        if not self.direct and not writable and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        self._align = _block(self._fd) if self.direct else 1
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(depth, "rows")
        room = -(-max(256 << 10, self.row_bytes + 2 * _ALIGN) // _ALIGN) * _ALIGN
        self._limit = room
        self._buffers = np.frombuffer(mmap.mmap(-1, depth * room), np.uint8).reshape(depth, room)
        self._counts = ReadCounts()

    @classmethod
    def of_npy(cls, path: str | Path, *, direct: bool = False, depth: int = 32, writable: bool = False) -> DiskRows:
        """Open the array of an `.npy` file.

        Args:
            path: The file.
            direct: Bypass the page cache.
            depth: Requests in flight.
            writable: Open for `write` too.

        Raises:
            DataError: If it is no such file, or not C-ordered.
        """
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DataError(str(path), str(error), "an .npy file of a fixed-size dtype", "write it anew.") from error
        return cls.of_memmap(mapped, direct=direct, depth=depth, writable=writable)

    @classmethod
    def of_memmap(
        cls,
        mapped: np.memmap[tuple[int, ...], np.dtype[np.generic]],
        *,
        direct: bool = False,
        depth: int = 32,
        writable: bool = False,
    ) -> DiskRows:
        """Open the file behind a whole memory-mapped array, which itself is not read.

        Args:
            mapped: The array.
            direct: Bypass the page cache.
            depth: Requests in flight.
            writable: Open for `write` too.

        Raises:
            DataError: If the array is no C-ordered map of a named file.
        """
        if mapped.filename is None or not mapped.flags.c_contiguous or not mapped.ndim:
            raise DataError(str(mapped.filename), "rows do not lie one after another", "C order", "save it in C order.")
        return cls(
            *(mapped.filename, mapped.dtype, mapped.shape, mapped.offset),
            direct=direct,
            depth=depth,
            writable=writable,
        )

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def counts(self) -> ReadCounts:
        """What was read so far."""
        return self._counts

    def read(self, rows: Ids, out: Rows | None = None, places: Ids | None = None) -> Rows:
        """Read rows, in any order, repeats included.

        Args:
            rows: int64 `[S]`, in `[0, N)`.
            out: Array to write instead of a new one, C-ordered, `[>= S, ...]`.
            places: Row of `out` that each goes to, int64 `[S]`; in order if None.

        Raises:
            InvalidValueError: If a row lies outside, or `out` does not fit.
            DataError: If the disk fails or the file has become too short.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        _check(rows, len(self))
        if out is None:
            out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        elif out.shape[1:] != self.shape[1:] or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise InvalidValueError("out", (out.shape, out.dtype), f"C-ordered rows {self.shape[1:]} of {self.dtype}")
        places = np.arange(len(rows)) if places is None else np.ascontiguousarray(places, np.int64)
        if len(places) != len(rows):
            raise InvalidValueError("places", len(places), f"one a row, {len(rows)}")
        _check(places, len(out))
        if not len(rows) or not self.row_bytes:
            return out
        with self._lock:
            begin = time.perf_counter()
            order = np.argsort(rows, kind="stable")
            ordered, places = rows[order], places[order]
            first, start, stop = merge_runs(
                ordered, self.row_bytes, self.offset, self._align, self.gap_bytes, self._limit
            )
            self._run(ordered, places, first, start, stop, out.reshape(-1).view(np.uint8))
            seconds, old = time.perf_counter() - begin, self._counts
            self._counts = ReadCounts(
                *(old.rows + len(rows), old.requests + len(start)),
                *(old.size_bytes + int((stop - start).sum()), old.seconds + seconds),
            )
        return out

    def cost_bytes(self, rows: Ids) -> int:
        """Return what reading rows costs, in bytes: those read, and a gap's worth for each request.

        Args:
            rows: int64 `[S]`, ascending.
        """
        _, start, stop = merge_runs(rows, self.row_bytes, self.offset, self._align, self.gap_bytes, self._limit)
        return int((stop - start).sum()) + self.gap_bytes * len(start)

    def read_bytes(self, start: int, stop: int, out: Rows) -> None:
        """Read consecutive bytes of the file, a few large requests at once.

        Args:
            start: The first; a multiple of 4096 if the file is read past the page cache.
            stop: The last, exclusive.
            out: Room for them, uint8, up to the next multiple of 4096; begins at a page.

        Raises:
            DataError: If the disk fails or the file has become too short.
        """
        begin, address, size = time.perf_counter(), out.ctypes.data, self.offset + len(self) * self.row_bytes
        places = range(start, stop, _LARGE)

        def one(at: int) -> bool:
            size = min(_LARGE, stop - at)
            return read_along(self._fd, address + at - start, -(-size // _ALIGN) * _ALIGN, size, at)

        tasks = [self._pool.submit(one, at) for at in places]
        if not all([task.result() for task in tasks]):
            self._explain(start, min(stop, size))
        with self._lock:
            old = self._counts
            self._counts = ReadCounts(
                *(old.rows, old.requests + len(places)),
                *(old.size_bytes + stop - start, old.seconds + time.perf_counter() - begin),
            )

    def _run(self, rows: Ids, places: Ids, first: Ids, start: Ids, stop: Ids, out: npt.NDArray[np.uint8]) -> None:
        threads = min(self.depth, len(start))
        end = self.offset + self.shape[0] * self.row_bytes
        given = (self._fd, rows, places, first, start, stop, self.row_bytes, self.offset, end, out)
        if threads == 1:
            failed = [read_runs(*given, self._buffers[0], 0, 1)]
        else:
            tasks = [self._pool.submit(read_runs, *given, self._buffers[i], i, threads) for i in range(threads)]
            failed = [task.result() for task in tasks]
        bad = next((run for run in failed if run >= 0), None)
        if bad is not None:
            self._explain(int(start[bad]), int(min(stop[bad], end)))

    def _explain(self, start: int, stop: int) -> None:
        """Say why bytes could not be read, by trying once more through the interpreter."""
        try:
            size = os.fstat(self._fd).st_size
            os.preadv(self._fd, [mmap.mmap(-1, -(-(stop - start) // _ALIGN) * _ALIGN)], start)
            problem = f"bytes {start} to {stop} could not be read; the file has {size}"
        except OSError as error:
            problem = f"bytes {start} to {stop} could not be read ({error.strerror})"
        raise DataError(str(self.path), problem, "a whole, readable file", "check the disk, or write the file anew.")

    def write(self, rows: Ids, values: Rows) -> None:
        """Write rows; of equal rows the last one wins. They are on the disk after `flush`.

        Args:
            rows: int64 `[S]`, in `[0, N)`.
            values: `[S, ...]` of the file's dtype.

        Raises:
            InvalidValueError: If a row lies outside or the values do not fit.
            DataError: If the disk fails.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        _check(rows, len(self))
        if values.shape != (len(rows), *self.shape[1:]) or values.dtype != self.dtype:
            raise InvalidValueError("values", (values.shape, values.dtype), f"{self.shape[1:]} rows of {self.dtype}")
        if not len(rows) or not self.row_bytes:
            return
        with self._lock:
            order = np.argsort(rows, kind="stable")
            ordered = rows[order]
            last = np.append(ordered[1:] != ordered[:-1], True)
            ordered, sorted_values = ordered[last], np.ascontiguousarray(values[order[last]])
            flat = sorted_values.reshape(-1).view(np.uint8)
            failed = write_runs(self._fd, ordered, flat, self.row_bytes, self.offset)
        if failed >= 0:
            raise DataError(
                *(str(self.path), f"row {ordered[failed]} could not be written", "a writable file on a disk with room"),
                "open it with writable=True, and make room.",
            )

    def flush(self) -> None:
        """Wait until the disk has what was written."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Give the file back; no call may follow."""
        self._pool.shutdown()
        self._close()


def _check(rows: Ids, limit: int) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= limit):
        raise InvalidValueError("rows", (int(rows.min()), int(rows.max())), f"in [0, {limit})")


def _open(path: Path, *, direct: bool, writable: bool) -> tuple[int, bool]:
    """Open a file, past the page cache if that is wanted and possible."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0)
    if direct and hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, flags | os.O_DIRECT), True
        except OSError:  # tmpfs and some network file systems cannot
            pass
    return os.open(path, flags), False


def _block(fd: int) -> int:
    """Return the smallest block in which the device of a file opened for direct reads gives its bytes, found by trying.

    A row of 688 bytes costs 0.9 to 1.4 KiB in blocks of 512 and 4 to 8 KiB in blocks of 4096.
    """
    buffer = mmap.mmap(-1, _ALIGN)
    for block in _BLOCKS[:-1]:
        try:
            os.preadv(fd, [memoryview(buffer)[:block]], block)
        except OSError:  # EINVAL: the device has larger blocks
            continue
        return block
    return _ALIGN
