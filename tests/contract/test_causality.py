"""No query sees what had not happened yet: every sampler, both visibilities, both hop times, one to three hops."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.access import FixedBatches, Pipeline, samplers
from stepwell.storage import EventLog
from stepwell.testing import assert_same_bits, event_logs

OPTIONS = list(product(samplers, ("event", "batch"), ("edge", "root"), (1, 2, 3)))
NODES = 6


def _pipeline(log, option, size):
    name, as_of, hop_time, hops = option
    options = {"hops": hops, "as_of": as_of, "hop_time": hop_time}
    return Pipeline(log, FixedBatches(size), sampler=samplers[name](k=2), prefetch=0, **options)


def _log(arrays):
    return EventLog.from_arrays(*arrays, num_nodes=NODES)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@settings(max_examples=10)
@given(arrays=event_logs(max_nodes=NODES, min_events=1), size=st.integers(1, 9))
def test_no_level_holds_an_event_that_its_query_may_not_see(option, arrays, size):
    _, as_of, hop_time, _ = option
    log = _log(arrays)
    for batch in _pipeline(log, option, size):
        begin, time = int(batch.event[0]), batch.array("time")
        root_before = np.searchsorted(log.time, time, side="left") if as_of == "event" else np.full(len(batch), begin)
        first = batch.levels[0]
        assert torch.equal(first.node[batch.src_row], batch.src)
        assert torch.equal(first.time[batch.src_row], batch.time)
        assert torch.equal(first.before[batch.src_row], torch.from_numpy(root_before))
        for number, level in enumerate(batch.levels):
            event, seen = level.hood.event.numpy(), level.hood.mask.numpy()
            before, at = level.before.numpy()[:, None], level.time.numpy()[:, None]
            when = log.time[event]
            assert (event < before)[seen].all()
            if as_of == "event":
                assert (when < at)[seen].all()
            else:
                assert (event < begin)[seen].all()
                assert (when <= at)[seen].all()
            assert np.array_equal(level.hood.dt.numpy()[seen], (at - when)[seen])
            if number + 1 < len(batch.levels):
                below = batch.levels[number + 1]
                rows = level.neighbor_row.numpy()
                wanted = when if hop_time == "edge" else np.broadcast_to(at, when.shape)
                assert np.array_equal(below.node.numpy()[rows][seen], level.hood.node.numpy()[seen])
                assert np.array_equal(below.time.numpy()[rows][seen], wanted[seen])
                assert (below.before.numpy()[rows] <= before)[seen].all()
                if hop_time == "edge":
                    strictly = np.searchsorted(log.time, when, side="left")
                    assert (below.before.numpy()[rows] <= strictly)[seen].all()


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@settings(max_examples=6)
@given(data=st.data())
def test_a_query_is_answered_alike_whatever_the_future_holds(option, data):
    as_of = option[1]
    arrays = data.draw(event_logs(max_nodes=NODES, min_events=2))
    size = data.draw(st.integers(1, 4))
    num = len(arrays.src)
    log = _log(arrays)
    index = data.draw(st.integers(0, (num - 1) // size))
    begin, end = index * size, min((index + 1) * size, num)
    hidden = np.arange(num) >= end
    if as_of == "event" and size == 1:
        hidden |= (arrays.time >= arrays.time[begin]) & (np.arange(num) != begin)
    shift = data.draw(st.integers(1, NODES - 1))
    other = _log(
        (
            np.where(hidden, (arrays.src + shift) % NODES, arrays.src),
            np.where(hidden, (arrays.dst + 2 * shift) % NODES, arrays.dst),
            np.where(np.arange(num) >= end, arrays.time + shift, arrays.time),
        )
    )
    here = next(_pipeline(log, option, size).epoch(0, start=index))
    there = next(_pipeline(other, option, size).epoch(0, start=index))
    assert_same_bits(there, here, "the batch")


@pytest.mark.parametrize("name", samplers)
def test_ties_stay_hidden_from_each_other_by_event_and_are_cut_by_the_border_by_batch(name):
    log = EventLog.from_arrays(src=[0, 0, 0, 0], dst=[1, 2, 3, 4], time=[5, 5, 5, 5])
    by_event = list(_pipeline(log, (name, "event", "edge", 1), 2))
    assert not any(batch.levels[0].hood.mask.any() for batch in by_event)
    by_batch = list(_pipeline(log, (name, "batch", "edge", 1), 2))
    assert not by_batch[0].levels[0].hood.mask.any()
    assert sorted(by_batch[1].levels[0].hood.event[by_batch[1].src_row[0]].tolist()) == [0, 1]
