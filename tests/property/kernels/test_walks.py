"""Walk weights and pair histories against their slow twins, at every prefix that a query may see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from stepwell.kernels.pair_history import NUM_FEATURES, History, describe_pairs, describe_pairs_reference, note
from stepwell.kernels.walks import Events, Walks, advance, walk_products, walk_weights_reference
from stepwell.testing import event_logs

NODES, LEVELS = 4, 3


def head(events, count):
    return Events(*(column[:count] for column in events))


def exact(decay, num_nodes=NODES, levels=LEVELS):
    """Return walks whose projection is the identity, so that rows are the walk weights themselves."""
    return Walks.empty(np.eye(num_nodes, dtype=np.float32), levels, decay)


@settings(max_examples=40, deadline=None)
@given(log=event_logs(max_nodes=NODES, max_events=8, max_time=6), decay=st.sampled_from([0.0, 0.05, 1.5]))
def test_rows_are_the_weights_of_all_walks_back_in_time(log, decay):
    walks, events = exact((decay,)), Events(*log)
    advance(walks, events)
    now = 9
    power = np.exp(-decay * np.outer(now - walks.last, np.arange(LEVELS + 1)))
    rows = walks.row[:, 0] * power[:, :, None]
    weights = walk_weights_reference(events, NODES, LEVELS, decay, now)
    assert_allclose(rows.transpose(1, 0, 2), weights, rtol=2e-4, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(log=event_logs(max_nodes=NODES, min_events=1, max_events=8, max_time=6), data=st.data())
def test_each_query_is_answered_after_its_own_prefix_and_leaves_the_bits_that_were(log, data):
    events, applied = Events(*log), data.draw(st.integers(0, len(log.src)))
    decays = (0.0, 0.3)
    rest = Events(*(column[applied:] for column in events))
    visible = np.sort(data.draw(st.lists(st.integers(0, len(rest.src)), min_size=1, max_size=4)))
    now = np.full(len(visible), 8)
    walks = exact(decays)
    advance(walks, head(events, applied))
    before = walks.copy()
    left, right = (grid.reshape(1, -1).repeat(len(now), 0) for grid in np.mgrid[:NODES, :NODES])
    found = walk_products(walks, rest, visible, now, left, right)
    for b, count in enumerate(visible):
        for r, decay in enumerate(decays):
            weights = walk_weights_reference(head(events, applied + count), NODES, LEVELS, decay, 8)
            expected = np.einsum("iux,jvx->uvij", weights, weights).reshape(NODES**2, LEVELS + 1, LEVELS + 1)
            assert_allclose(found[b, :, r], expected, rtol=1e-3, atol=1e-5)
    for old, new in zip(before, walks, strict=True):
        assert_array_equal(old, new)


def test_padding_gets_zeros():
    walks, none = exact((0.0,)), Events(*(np.zeros(0, np.int64),) * 3)
    found = walk_products(walks, none, np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[-1, 0, 0]]),
                          np.array([[0, -1, 0]]))  # fmt: skip
    assert not found[0, :2].any()
    assert found[0, 2, 0, 0, 0] == 1


def test_ten_thousand_repeats_without_decay_stay_finite():
    """Three-step walks of a pair that meets n times number about n**3 / 6; at some n float32 would overflow squared."""
    walks, many = exact((0.0,)), 10_000
    for _ in range(100):
        advance(walks, Events(np.zeros(many, np.int64), np.ones(many, np.int64), np.arange(many)))
    found = walk_products(walks, Events(*(np.zeros(0, np.int64),) * 3), np.zeros(1, np.int64), np.full(1, many),
                          np.array([[0]]), np.array([[1]]))  # fmt: skip
    assert np.isfinite(found).all()


@pytest.mark.parametrize("decay", [1e-3, 1.0])
def test_rows_long_out_of_date_decay_to_nothing_instead_of_overflowing(decay):
    walks = exact((decay,))
    advance(walks, Events(*(np.array([value]) for value in (0, 1, 0))))
    advance(walks, Events(*(np.array([value]) for value in (0, 2, 2**40))))
    assert np.isfinite(walks.row).all()
    assert_allclose(walks.row[0, 0, 1], [0, 0, 1, 0], atol=1e-12)


def test_the_error_of_a_projection_shrinks_as_the_root_of_its_columns():
    draw, num_nodes, num = np.random.default_rng(0), 60, 300
    events = Events(
        draw.integers(0, num_nodes, num), draw.integers(0, num_nodes, num), np.sort(draw.integers(0, 99, num))
    )
    left, right = (grid.reshape(1, -1) for grid in np.mgrid[:num_nodes, :num_nodes])
    none, now = Events(*(np.zeros(0, np.int64),) * 3), np.full(1, 100)

    def products(base):
        walks = Walks.empty(base.astype(np.float32), 1, (0.01,))
        advance(walks, events)
        return walk_products(walks, none, np.zeros(1, np.int64), now, left, right)[0, :, 0, 1, 1]

    true = products(np.eye(num_nodes))
    errors = [
        np.sqrt(np.mean((products(draw.standard_normal((num_nodes, dim)) / dim**0.5) - true) ** 2))
        for dim in (16, 256, 4096)
    ]
    assert errors[1] < errors[0] / 2.5 < errors[0]
    assert errors[2] < errors[1] / 2.5


@settings(max_examples=60, deadline=None)
@given(log=event_logs(max_nodes=NODES, min_events=1, max_events=14, max_time=6), data=st.data())
def test_pair_histories_are_those_of_the_prefix_and_leave_the_bits_that_were(log, data):
    events, applied = Events(*log), data.draw(st.integers(0, len(log.src)))
    rest = Events(*(column[applied:] for column in events))
    visible = np.sort(data.draw(st.lists(st.integers(0, len(rest.src)), min_size=1, max_size=4)))
    now, src = np.full(len(visible), 9), np.arange(len(visible)) % NODES
    candidate = np.tile(np.arange(-1, NODES), (len(visible), 1))
    history = History.empty(NODES, 64)
    note(history, head(events, applied))
    before = history.copy()
    found = describe_pairs(history, rest, visible, now, src, candidate, 2.0)
    expected = describe_pairs_reference(events, applied + visible, now, src, candidate, 2.0)
    assert found.shape[2] == NUM_FEATURES
    assert_allclose(found, expected, rtol=1e-6)
    for old, new in zip(before, history, strict=True):
        assert_array_equal(old, new)


def test_a_table_with_more_room_answers_alike():
    draw, num = np.random.default_rng(0), 3000
    events = Events(draw.integers(0, 200, num), draw.integers(0, 200, num), np.arange(num))
    small, none = History.empty(200), Events(*(np.zeros(0, np.int64),) * 3)
    for at in range(0, num, 500):
        small = small.with_room(500)
        note(small, Events(*(column[at : at + 500] for column in events)))
    large = History.empty(200, 1 << 14)
    note(large, events)
    assert 2 * (small.key >= 0).sum() <= len(small.key)
    src, candidate = np.arange(200), np.tile(np.arange(200), (200, 1))
    query = (none, np.zeros(200, np.int64), np.full(200, num), src, candidate, 1.0)
    assert_array_equal(describe_pairs(small, *query), describe_pairs(large, *query))
