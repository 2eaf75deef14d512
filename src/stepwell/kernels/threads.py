"""How kernels run in parallel: on torch's threads, one parallel region at a time, and serially for small work.

Every kernel is a serial function over a range of rows. `launch` runs it once over all rows, or cuts the rows into
one range a thread. The ranges write disjoint rows, so results never depend on the number of threads.

Two things make a second parallel region dangerous: Numba's portable threading layer ends the process on concurrent
launches, and GNU OpenMP does so in a forked child. So whoever finds the region taken, or finds itself in a forked
child, runs serially instead; the answer is the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from numba import config, get_num_threads, set_num_threads

CELLS_PER_THREAD = 2048
"""Output cells that pay for one more thread: a launch costs about 2 us, a cell about 5 ns (two-core measurement)."""

_region = threading.Lock()
_here = threading.local()
_owner: list[int] = []


def num_threads() -> int:
    """Return how many threads a large kernel uses now: torch's number, up to what Numba has started."""
    return min(torch.get_num_threads(), int(config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]  # set from the environment at import


@contextmanager
def serial() -> Iterator[None]:
    """Run this thread's kernels serially while the block runs: it is one of several workers already."""
    before, _here.serial = getattr(_here, "serial", False), True
    try:
        yield
    finally:
        _here.serial = before


def launch(rows: int, cells: int, ranged: Callable[..., None], parallel: Callable[..., None], *args: object) -> None:
    """Run a kernel over `[0, rows)`.

    Args:
        rows: Rows of the result.
        cells: The result's size, the measure of work.
        ranged: `ranged(begin, end, *args)` computes rows `[begin, end)`.
        parallel: `parallel(threads, rows, *args)` calls `ranged` for one range a thread.
        args: The kernel's arrays and numbers.
    """
    threads = 1 if getattr(_here, "serial", False) else min(num_threads(), cells // CELLS_PER_THREAD + 1, rows)
    if threads > 1 and _enter():
        mask = get_num_threads()
        try:
            if mask != threads:
                set_num_threads(threads)
            parallel(threads, rows, *args)
        finally:
            if mask != threads:
                set_num_threads(mask)
            _region.release()
    else:
        ranged(0, rows, *args)


def _enter() -> bool:
    """Take the one parallel region; say no if it is taken or belongs to the parent process."""
    if not _region.acquire(blocking=False):
        return False
    if not _owner:
        _owner.append(os.getpid())
    if _owner[0] != os.getpid():
        _region.release()
        return False
    return True
