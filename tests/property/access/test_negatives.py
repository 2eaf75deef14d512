"""Negatives against what their docstrings say, one event at a time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.access import AllDestinations, HistoricalNegatives, InductiveNegatives, UniformNegatives
from stepwell.core import Draw, Slice
from stepwell.storage import EventLog
from stepwell.testing import event_logs

logs = event_logs(max_nodes=6, min_events=2)


def _pairs(log):
    return set(zip(log.src.tolist(), log.dst.tolist(), strict=True))


def _true(log, src, time):
    now = (log.src == src) & (log.time == time)
    return set(log.dst[now].tolist())


def _drawn(negatives, log, seed=0):
    batch = log.read(Slice(0, 0, 0, len(log)))
    return negatives.draw(log, batch, Draw(seed, "negatives"))


@settings(max_examples=30)
@given(logs, st.integers(1, 3))
def test_uniform_negatives_are_destinations_and_spare_the_positive_on_request(arrays, per_event):
    log = EventLog.from_arrays(*arrays)
    assert np.isin(_drawn(UniformNegatives(per_event), log), log.destinations).all()
    if len(log.destinations) > 1:
        others = _drawn(UniformNegatives(per_event, exclude_positive=True), log)
        assert others.shape == (len(log), per_event)
        assert np.isin(others, log.destinations).all()
        assert (others != log.dst[:, None]).all()


@settings(max_examples=30)
@given(logs)
def test_all_destinations_are_every_one_that_is_not_true_now(arrays):
    log = EventLog.from_arrays(*arrays)
    every = set(log.destinations.tolist())
    for strict in (True, False):
        found = _drawn(AllDestinations(exclude_true=strict), log)
        assert found.shape == (len(log), len(every) - 1)
        for row, src, dst, time in zip(found, log.src, log.dst, log.time, strict=True):
            true = _true(log, src, time) if strict else {dst}
            wanted = sorted(every - true)
            assert row.tolist() == wanted + [-1] * (len(row) - len(wanted))


@settings(max_examples=30)
@given(logs, st.integers(0, 24))
def test_historical_and_inductive_negatives_are_known_pairs_that_do_not_meet_now(arrays, cut):
    log = EventLog.from_arrays(*arrays)
    train, test = log[:cut], log[cut:]
    history = _pairs(train)
    cases = ((HistoricalNegatives(train, 2), history), (InductiveNegatives(train, test, 2), _pairs(test) - history))
    for negatives, pairs in cases:
        found = _drawn(negatives, log)
        for row, src, time in zip(found, log.src, log.time, strict=True):
            idle = {dst for node, dst in pairs if node == src} - _true(log, src, time)
            assert set(row.tolist()) <= (idle or set(log.destinations.tolist()))


def test_each_idle_partner_is_drawn_about_equally_often():
    num = 4000
    train = EventLog.from_arrays([0, 0, 0, 0] + [0] * num, [1, 2, 3, 4] + [2] * num, [*range(4), *range(10, 10 + num)])
    found = _drawn(HistoricalNegatives(train), train)[4:]
    nodes, counts = np.unique(found, return_counts=True)
    assert nodes.tolist() == [1, 3, 4]
    assert (abs(counts - num / 3) < 4 * np.sqrt(num * 2 / 9)).all()
