"""The row cache: the same values within the budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.buffer import RowCache
from stepwell.core.errors import InvalidValueError

N = 50


def compute(rows):
    return {"x": np.stack([rows * 2.0, rows + 0.5], 1), "y": rows * 3}


ROW_BYTES = 24


@settings(max_examples=50, deadline=None)
@given(
    budget=st.integers(0, 2 * N * ROW_BYTES),
    reads=st.lists(st.lists(st.integers(0, N - 1), max_size=30), max_size=8),
)
def test_values_are_those_computed_and_bytes_stay_in_the_budget(budget, reads):
    cache = RowCache(N, budget)
    for read in reads:
        rows = np.array(read, np.int64)
        found, expected = cache.read(rows, compute), compute(rows)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert cache.counts.size_bytes <= budget
    assert cache.counts.hits + cache.counts.misses == sum(map(len, reads))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 6),
    reads=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), max_size=6),
)
def test_texts_of_any_length_are_never_cut(rows, reads):
    texts = np.array(["", "a", "bb", "cccc", "dddddddd", "eee"])

    def read_texts(rows):
        return {"text": np.array(texts[rows].tolist()), "y": rows * 3}  # as wide as the longest of them

    cache = RowCache(6, 6 * 4 + rows * 40)
    for read in reads:
        ids = np.array(read, np.int64)
        assert cache.read(ids, read_texts)["text"].tolist() == texts[ids].tolist()


def test_a_budget_for_all_rows_computes_each_once():
    cache = RowCache(N, N * (ROW_BYTES + 4))
    for epoch in range(3):
        for part in np.random.default_rng(epoch).permutation(N).reshape(5, 10):
            cache.read(part, compute)
    assert (cache.counts.misses, cache.counts.hits, cache.counts.rows) == (N, 2 * N, N)


def test_half_the_rows_give_half_the_hits_under_a_shuffle():
    cache = RowCache(N, N * 4 + N // 2 * ROW_BYTES)
    for epoch in range(3):
        for part in np.random.default_rng(epoch).permutation(N).reshape(5, 10):
            cache.read(part, compute)
    assert cache.counts.hits == 2 * (N // 2)
    assert cache.counts.hit_rate == pytest.approx(1 / 3)


def test_threads_read_the_same_values():
    cache = RowCache(1000, 1 << 14)
    parts = np.random.default_rng(0).integers(0, 1000, (64, 50))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rows: cache.read(rows, compute)["y"], parts))
    assert np.array_equal(np.stack(found), parts * 3)
    assert cache.counts.size_bytes <= 1 << 14


def test_a_negative_budget_is_refused():
    with pytest.raises(InvalidValueError, match="budget_bytes"):
        RowCache(1, -1)
