"""Neighbour search: what a query sees, and that nothing but the query decides it."""

import numpy as np
import pytest
from scipy import stats

from stepwell import kernels
from stepwell.core import Draw
from stepwell.core.errors import InvalidValueError

RING = (np.array([0, 0, 1, 0, 2]), np.array([1, 2, 1, 1, 0]), np.array([5, 5, 6, 7, 9]))


@pytest.fixture
def index():
    return kernels.build_tcsr(*RING, 4)


def star(degree):
    """Return the index of node 0 with `degree` events."""
    return kernels.build_tcsr(np.zeros(degree, int), np.arange(1, degree + 1), np.arange(degree), degree + 1)


def test_the_newest_events_before_a_border_come_first(index):
    node, event, dt, mask = kernels.recent_neighbors(
        *index, np.array([0, 0, 1, 3]), np.array([9, 5, 7, 9]), np.array([4, 0, 3, 5]), 3
    )

    assert node.tolist() == [[1, 2, 1], [-1, -1, -1], [1, 0, -1], [-1, -1, -1]]
    assert event.tolist() == [[3, 1, 0], [-1, -1, -1], [2, 0, -1], [-1, -1, -1]]
    assert dt.tolist() == [[2, 4, 4], [0, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert mask.tolist() == (node >= 0).tolist()
    assert [array.dtype for array in (node, event, dt)] == [np.int64] * 3


def test_a_node_outside_the_index_has_no_past(index):
    nodes = np.array([-1, 4, 10**12, -(2**62)])
    before = np.full(4, 5)

    assert (kernels.newest_before(index[0], index[2], nodes, before, 2) == -1).all()
    assert not kernels.recent_neighbors(*index, nodes, before, before, 2, cursor=np.zeros(4, int))[3].any()


def test_the_given_arrays_are_written_and_returned(index):
    out = tuple(np.empty((1, 2), kind) for kind in (np.int32, np.int32, np.int32, np.bool_))

    found = kernels.recent_neighbors(*index, np.array([0]), np.array([9]), np.array([5]), 2, out=out)

    assert all(got is given for got, given in zip(found, out, strict=True))
    assert out[0].tolist() == [[2, 1]]


def test_a_window_keeps_its_far_border_and_cuts_what_is_older(index):
    indptr, _, event, time = index

    slots = kernels.window_before(indptr, event, time, np.array([0, 0]), np.array([9, 9]), np.array([4, 4]), 3, 4)
    narrow = kernels.window_before(indptr, event, time, np.array([0]), np.array([9]), np.array([4]), 3, 1)

    assert event[slots[0]].tolist() == [3, 1, 0]
    assert narrow.tolist() == [[-1, -1, -1]]


def test_a_uniform_draw_takes_all_where_few_are_visible():
    indptr, _, event, _ = star(5)

    slots = kernels.uniform_before(indptr, event, np.array([0, 0]), np.array([3, 0]), 4, 1, 0, np.array([0, 1]))

    assert slots.tolist() == [[2, 1, 0, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize(("visible", "k"), [(7, 3), (20, 1), (12, 11)])
def test_a_uniform_draw_is_without_replacement_and_even_over_the_visible_events(visible, k):
    num_draws = 20_000
    indptr, _, event, _ = star(25)
    draw = Draw(seed=11, purpose="uniform test")
    nodes, before = np.zeros(num_draws, int), np.full(num_draws, visible)

    slots = kernels.uniform_before(indptr, event, nodes, before, k, draw.key, draw.lane(0), np.arange(num_draws))

    assert (np.diff(slots, axis=1) < 0).all(), "distinct and newest first"
    assert slots.min() >= 0 and slots.max() < visible
    counts = np.bincount(slots.ravel(), minlength=visible)
    mean, share = num_draws * k / visible, k / visible
    spread = ((counts - mean) ** 2).sum() / (num_draws * share * (1 - share)) * (visible - 1) / visible
    assert stats.chi2.sf(spread, visible - 1) > 0.001


def test_every_subset_of_a_uniform_draw_is_equally_likely():
    num_draws = 20_000
    indptr, _, event, _ = star(5)
    draw = Draw(seed=2, purpose="subset test")
    nodes, before = np.zeros(num_draws, int), np.full(num_draws, 5)

    slots = kernels.uniform_before(indptr, event, nodes, before, 2, draw.key, draw.lane(0), np.arange(num_draws))

    _, counts = np.unique(slots[:, 0] * 5 + slots[:, 1], return_counts=True)
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 0.001


def test_a_uniform_draw_does_not_depend_on_the_batch_or_its_order():
    rng = np.random.default_rng(0)
    indptr, _, event, _ = star(30)
    nodes, before, rows = rng.integers(0, 3, 200), rng.integers(0, 31, 200), np.arange(200)
    whole = kernels.uniform_before(indptr, event, nodes, before, 4, 9, 0, rows)
    order = rng.permutation(200)

    mixed = kernels.uniform_before(indptr, event, nodes[order], before[order], 4, 9, 0, rows[order])
    alone = [
        kernels.uniform_before(indptr, event, nodes[i : i + 1], before[i : i + 1], 4, 9, 0, rows[i : i + 1])
        for i in (0, 7)
    ]

    np.testing.assert_array_equal(mixed, whole[order])
    np.testing.assert_array_equal(np.concatenate(alone), whole[[0, 7]])


def test_read_only_and_memory_mapped_indexes_serve_as_well(index, tmp_path):
    mapped = []
    for name, array in zip("abcd", index, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    queries = np.array([0, 1, 2]), np.array([9, 9, 9]), np.array([5, 5, 5]), 2

    for got, wanted in zip(
        kernels.recent_neighbors(*mapped, *queries), kernels.recent_neighbors(*index, *queries), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_bad_arguments_say_what_is_allowed(index):
    indptr, neighbor, event, time = index
    one = np.array([0])

    with pytest.raises(InvalidValueError, match="`k` must be at least 1, got 0"):
        kernels.newest_before(indptr, event, one, one, 0)
    with pytest.raises(InvalidValueError, match="of one length"):
        kernels.newest_before(indptr, event, one, np.array([0, 1]), 1)
    with pytest.raises(InvalidValueError, match="`width` must be at least 0"):
        kernels.window_before(indptr, event, time, one, one, one, 1, -1)
    with pytest.raises(InvalidValueError, match="one entry for each of 4 nodes"):
        kernels.recent_neighbors(*index, one, one, one, 1, cursor=one)
    with pytest.raises(InvalidValueError, match=r"four arrays of shape \(1, 1\)"):
        kernels.recent_neighbors(*index, one, one, one, 1, out=kernels.recent_neighbors(*index, one, one, one, 2))
    with pytest.raises(InvalidValueError, match=r"`slots` must be of shape \[1, k\]"):
        kernels.read_slots(neighbor, event, time, one, one)
