"""Reused embeddings: the plan's known answers, and that it cannot be beaten."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.buffer.belady import Belady
from stepwell.buffer.mrd import mrd_plan, reuse_trace
from stepwell.buffer.trace import Trace
from stepwell.core.errors import InvalidValueError


def trace_of(*batches, num_rows=6):
    return Trace.of([np.array(sorted(batch), np.int64) for batch in batches], num_rows)


def hits_of(targets, needs, capacity):
    """Follow a plan and count the needs that the cache holds."""
    resident, hits = set(), 0
    for batch, (admit, evict) in enumerate(mrd_plan(targets, needs, capacity)):
        made = {*targets.batch(batch).tolist(), *needs.batch(batch).tolist()}
        hits += len(resident & set(needs.batch(batch).tolist()))
        assert set(evict.tolist()) <= resident
        assert set(admit.tolist()) <= made - resident
        resident = (resident - set(evict.tolist())) | set(admit.tolist())
        assert len(resident) <= capacity
    return hits


@pytest.mark.parametrize(("capacity", "hits"), [(0, 0), (1, 2), (2, 3), (9, 3)])
def test_a_hand_made_plan_keeps_the_row_that_is_needed_twice(capacity, hits):
    a, b, c, d, e = range(5)
    targets, needs = trace_of({a, b}, {c}, {d}, {e}), trace_of(set(), {a}, {b}, {a})
    assert hits_of(targets, needs, capacity) == hits


def test_a_copy_that_is_superseded_before_its_use_is_not_kept():
    targets, needs = trace_of({0}, {0}, {1}), trace_of(set(), set(), {0})
    first, second, _ = mrd_plan(targets, needs, 1)
    assert len(first.admit) == 0
    assert second.admit.tolist() == [0]
    assert hits_of(targets, needs, 1) == 1


def test_a_node_needed_and_made_in_one_batch_is_needed_first():
    targets, needs = trace_of({0}, {0}), trace_of(set(), {0})
    assert hits_of(targets, needs, 1) == 1


def test_targets_and_needs_of_different_lengths_are_refused():
    with pytest.raises(InvalidValueError, match="`needs` must be a trace of 1 batches"):
        reuse_trace(trace_of({0}), trace_of({0}, {1}))


def test_the_plan_is_beladys_over_the_reuse_trace():
    rng = np.random.default_rng(0)
    sides = [trace_of(*(set(rng.integers(0, 6, 3).tolist()) for _ in range(12))) for _ in range(2)]
    trace = reuse_trace(*sides)
    tier = Belady().begin(6, 2, trace)
    for batch, moves in enumerate(mrd_plan(*sides, 2)):
        other = tier.step(trace.batch(batch))
        assert all(np.array_equal(one, two) for one, two in zip(moves, other, strict=True))


def best_hits(targets, needs, capacity):
    """Return the most hits over all plans, by dynamic programming over all sets that a cache can hold."""
    num_batches = len(targets)

    @cache
    def best(batch, held):
        if batch == num_batches:
            return 0
        need, made = set(needs.batch(batch).tolist()), set(targets.batch(batch).tolist())
        options = _subsets(sorted(held | need | made), capacity)
        return len(held & need) + max(best(batch + 1, frozenset(chosen)) for chosen in options)

    return best(0, frozenset())


def _subsets(items, size):
    chosen = [()]
    for item in items:
        chosen += [(*one, item) for one in chosen if len(one) < size]
    return chosen


def _side(num_batches):
    return st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=num_batches, max_size=num_batches)


sides_of = st.integers(1, 6).flatmap(lambda size: st.tuples(_side(size), _side(size)))


@settings(max_examples=60, deadline=None)
@given(sides=sides_of, capacity=st.integers(0, 4))
def test_no_plan_over_all_cache_states_hits_more(sides, capacity):
    targets, needs = (trace_of(*side, num_rows=5) for side in sides)
    assert hits_of(targets, needs, capacity) == best_hits(targets, needs, capacity)
