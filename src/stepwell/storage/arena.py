"""Memory that is used again: an array from the arena gives its pages back when the last view of it is gone.

A fresh large array costs a page fault for each 4 KiB, several times the cost of gathering the rows into it. Batches are
made and dropped at a steady rate, so the pages of an old batch serve the next one. Nobody has to return anything: while
any array or tensor still looks at the memory, it is not used again.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

SMALLEST_BYTES = 1 << 16
"""Smaller arrays come from the allocator's own free lists, without page faults."""


class Arena:
    """Makes uninitialised arrays out of memory that is no longer looked at; safe to use from several threads.

    Args:
        limit_bytes: Unused memory kept for later; beyond that it goes back to the operating system.

    Example:
        >>> arena = Arena()
        >>> first = arena.empty((1000, 100), np.dtype(np.float64))
        >>> place = first.ctypes.data
        >>> del first
        >>> arena.empty((1000, 100), np.dtype(np.float64)).ctypes.data == place
        True
    """

    def __init__(self, limit_bytes: int = 64 << 20) -> None:
        self.limit_bytes = limit_bytes
        self._free: dict[int, deque[memoryview]] = {}
        self._used: dict[int, tuple[weakref.ref[npt.NDArray[np.uint8]], memoryview]] = {}

    @property
    def free_bytes(self) -> int:
        """Bytes kept for later."""
        return sum(size * len(blocks) for size, blocks in list(self._free.items()))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
        """Return an uninitialised array, C-ordered."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST_BYTES:
            return np.empty(shape, dtype)
        room = 1 << (size - 1).bit_length()
        try:
            block = self._free[room].pop()
        except (KeyError, IndexError):
            block = np.empty(room, np.uint8).data
        whole: npt.NDArray[np.uint8] = np.frombuffer(block, np.uint8)
        # All views have `whole` as their base, since its own base is no array; so they keep it alive, and it the block.
        key = id(whole)
        self._used[key] = (weakref.ref(whole, lambda _: self._give_back(key)), block)
        return whole[:size].view(dtype).reshape(shape)

    def _give_back(self, key: int) -> None:
        """Keep a block whose last view is gone; called by the interpreter, at any time, so it takes no lock."""
        _, block = self._used.pop(key)
        if self.free_bytes + block.nbytes <= self.limit_bytes:
            self._free.setdefault(block.nbytes, deque()).append(block)
