"""Adaptive cuts keep their bound, are as few as can be, and the fast kernel cuts where its reference does."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stepwell.access import AdaptiveBatches, FixedBatches
from stepwell.access.adaptive import batch_losses, loss, split, split_reference, update_distance
from stepwell.storage import EventLog
from stepwell.testing.strategies import event_logs

bounds = st.integers(0, 12)


@given(event_logs(max_nodes=5, max_events=40), bounds)
def test_the_kernel_cuts_where_its_reference_does(log, bound):
    assert np.array_equal(split(log.src, log.dst, bound, 5), split_reference(log.src, log.dst, bound, 5))


@given(event_logs(max_nodes=5, max_events=12, min_events=1), bounds)
def test_no_division_within_the_bound_has_fewer_batches(log, bound):
    fewest = [0] + [len(log.src) + 1] * len(log.src)
    for end in range(1, len(log.src) + 1):
        for begin in range(end):
            if end - begin == 1 or loss(log.src[begin:end], log.dst[begin:end]) <= bound:
                fewest[end] = min(fewest[end], fewest[begin] + 1)
    borders = split(log.src, log.dst, bound, 5)
    assert len(borders) - 1 == fewest[-1]
    assert borders[0] == 0
    assert borders[-1] == len(log.src)
    for begin, end in pairwise(borders):
        assert end - begin == 1 or loss(log.src[begin:end], log.dst[begin:end]) <= bound


@given(event_logs(max_nodes=5, min_events=1))
def test_the_loss_never_falls_as_a_batch_grows_at_either_end(log):
    size = len(log.src)
    growing = [loss(log.src[:end], log.dst[:end]) for end in range(1, size + 1)]
    shrinking = [loss(log.src[begin:], log.dst[begin:]) for begin in range(size)]
    assert all(0 <= b - a <= 2 for a, b in pairwise(growing))
    assert all(0 <= a - b <= 2 for a, b in pairwise(shrinking))


@given(event_logs(max_nodes=5, min_events=1), st.integers(1, 9))
def test_like_a_size_gives_no_more_batches_than_that_size(log, size):
    source = EventLog.from_arrays(log.src, log.dst, log.time, num_nodes=5)
    fixed = list(FixedBatches(size).cuts(source, 0))
    losses = [loss(log.src[cut.begin : cut.end], log.dst[cut.begin : cut.end]) for cut in fixed]
    assert batch_losses(log.src, log.dst, size, 5).tolist() == losses
    adaptive = AdaptiveBatches(like=size)
    assert adaptive.bound(source) == max(losses)
    assert len(list(adaptive.cuts(source, 0))) <= len(fixed)


@given(event_logs(max_nodes=5))
def test_the_update_distance_is_the_mean_gap_of_the_nodes(log):
    gaps = []
    for node in range(5):
        places = np.flatnonzero((log.src == node) | (log.dst == node))
        if len(places) > 1:
            gaps.append(np.diff(places).mean())
    source = EventLog.from_arrays(log.src, log.dst, log.time, num_nodes=5)
    assert np.isclose(update_distance(source), np.mean(gaps) if gaps else 0.0)
