"""The exact shuffle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.access.dense import Permutation, Shuffled
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.dense import permute
from stepwell.kernels.dense.reference import permute_reference


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 3000), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50))
def test_every_row_stands_at_exactly_one_place(n, seed, epoch):
    order = Permutation(n, seed, epoch)[0:n]
    assert np.array_equal(np.sort(order), np.arange(n))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 2**40), keys=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=8), data=st.data())
def test_the_kernel_equals_its_twin(n, keys, data):
    keys = np.array(keys[: len(keys) // 2 * 2], np.uint64)
    place = data.draw(st.integers(0, n - 1))
    assert permute(n, keys, place, place + 1).tolist() == [permute_reference(n, keys, place)]


def test_any_part_of_the_order_is_that_part_of_the_whole():
    order = Permutation(100_000, seed=3, epoch=2)
    whole = order[0:100_000]
    assert np.array_equal(order[777:50_123], whole[777:50_123])


def test_seeds_and_epochs_give_unlike_orders():
    orders = [Permutation(5000, seed, epoch)[0:5000] for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.01


def test_places_of_a_row_are_uniform_over_seeds():
    n, seeds = 10, 2000
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts[np.arange(n), Permutation(n, seed)[0:n]] += 1
    expected = seeds / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 81 + 5 * np.sqrt(2 * 81)


def test_neighbouring_places_are_uncorrelated():
    order = Permutation(200_000, seed=1)[0:200_000].astype(float)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.01


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_share_the_same_batches(size, world):
    source = range(1003)
    whole = {cut.index: cut.rows.tolist() for cut in Shuffled(size, seed=4).cuts(source, 1)}
    parts = [list(Shuffled(size, seed=4).cuts(source, 1, (rank, world))) for rank in range(world)]
    found = {cut.index: cut.rows.tolist() for part in parts for cut in part}
    assert found == whole
    assert all(cut.index % world == rank for rank, part in enumerate(parts) for cut in part)
    assert sorted(row for rows in whole.values() for row in rows) == list(source)


def test_starting_late_gives_the_rest_of_the_batches():
    source = range(100_001)
    whole = [cut.rows.tolist() for cut in Shuffled(64, seed=1).cuts(source, 0)]
    batcher = Shuffled(64, seed=1)
    late = [cut.rows.tolist() for cut in batcher.cuts_between(len(source), 0, 1234, batcher.count(len(source)))]
    assert late == whole[1234:]


def test_a_short_last_batch_can_be_dropped():
    assert [len(cut) for cut in Shuffled(4).cuts(range(10), 0)] == [4, 4, 2]
    assert [len(cut) for cut in Shuffled(4, drop_last=True).cuts(range(10), 0)] == [4, 4]
    assert list(Shuffled(4).cuts(range(0), 0)) == []


def test_values_outside_their_range_are_refused():
    with pytest.raises(InvalidValueError, match="size"):
        Shuffled(0)
    with pytest.raises(InvalidValueError, match="shard"):
        list(Shuffled(1).cuts(range(3), 0, (2, 2)))
    with pytest.raises(InvalidValueError, match="step"):
        Permutation(4)[0:4:2]
