"""Memory that is used again once nobody looks at it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from stepwell.storage.arena import Arena

SHAPE, FLOAT = (100, 250), np.dtype(np.float64)


@pytest.mark.parametrize(
    "look",
    [
        lambda a: a,
        lambda a: a[3:5],
        lambda a: a[::2].T,
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).split([40, 60])[1],
        lambda a: torch.from_numpy(a)[2].numpy(),
        lambda a: memoryview(a),
    ],
)
def test_memory_is_not_used_again_while_a_view_lives(look):
    arena = Arena()
    first = arena.empty(SHAPE, FLOAT)
    place, view = first.ctypes.data, look(first)
    del first
    second = arena.empty(SHAPE, FLOAT)
    assert second.ctypes.data != place
    del view
    assert arena.empty(SHAPE, FLOAT).ctypes.data == place


def test_only_so_much_is_kept():
    arena = Arena(limit_bytes=1 << 20)
    arrays = [arena.empty(SHAPE, FLOAT) for _ in range(20)]
    assert len({array.ctypes.data for array in arrays}) == 20
    del arrays
    assert 0 < arena.free_bytes <= 1 << 20


def test_threads_never_share_memory():
    arena = Arena()

    def work(number):
        array = arena.empty(SHAPE, FLOAT)
        array[:] = number
        return float(array.min()), float(array.max())

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(200)))
    assert found == [(number, number) for number in range(200)]


def test_small_arrays_and_any_type_are_served():
    arena = Arena()
    assert arena.empty((3,), np.dtype(np.int8)).shape == (3,)
    assert arena.empty((0, 5), FLOAT).shape == (0, 5)
    assert arena.empty((70_000,), np.dtype(bool)).dtype == bool
