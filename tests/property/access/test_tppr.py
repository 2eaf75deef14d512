"""T-PPR lists of the past: what the store returns for any (node, prefix) is what the stream had then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from stepwell.access.tppr import TPPR
from stepwell.core import Draw
from stepwell.kernels.tppr import Lists, advance
from stepwell.kernels.tppr_versions import read_versions_reference
from stepwell.storage import TemporalCSR
from stepwell.storage.tppr import TPPRIndex
from stepwell.testing import check_sampler
from stepwell.testing.strategies import event_logs

NODES = 6


def ask(sampler: TPPR, index: TemporalCSR, nodes, times, before):
    return sampler(index, nodes, times, before, Draw(0, "test"), np.arange(len(nodes)))


def grid(log) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every node at every prefix, asked when the next event happens."""
    nodes, before = np.repeat(np.arange(NODES), len(log.time) + 1), np.tile(np.arange(len(log.time) + 1), NODES)
    times = np.append(log.time, log.time[-1:] + 1)[: len(log.time) + 1]
    times = np.zeros(1, np.int64) if not len(log.time) else times
    return nodes, times[before], before


@given(event_logs(max_nodes=NODES), st.booleans(), st.sampled_from([2, 4, 50]))
@settings(max_examples=60, deadline=None)
def test_the_store_returns_the_list_that_the_stream_had_at_every_node_and_prefix(log, directed, k):
    index = TemporalCSR.from_events(log.src, log.dst, log.time, NODES, directed=directed)
    nodes, times, before = grid(log)
    lists = TPPRIndex.build(index, k, 0.2, 0.7)
    hood = ask(TPPR(k, 0.2, 0.7), index, nodes, times, before)
    bound, missing = lists.certificates(nodes, before)
    ends = np.stack([log.src, log.dst], 1).astype(np.int32).reshape(-1, 2)
    state = Lists.empty(NODES, k)
    for prefix in range(len(ends) + 1):
        for row in np.flatnonzero(before == prefix):
            node, end = nodes[row], state.length[nodes[row]]
            wanted = dict(zip(state.key[node, :end].tolist(), state.weight[node, :end].tolist(), strict=True))
            places = {(int(ends[key // 2, key % 2]), key // 2): np.float32(weight) for key, weight in wanted.items()}
            mask = hood.mask[row]
            found = zip(
                hood.node[row][mask].tolist(), hood.event[row][mask].tolist(), hood.weight[row][mask], strict=True
            )
            assert {(node, event): weight for node, event, weight in found} == places
            assert bound[row] == state.bound[node]
            assert missing[row] == pytest.approx(max(state.mass[node] - sum(wanted.values()), 0), abs=1e-6)
            weights = hood.weight[row][mask]
            assert (weights[:-1] >= weights[1:]).all(), "the heaviest place comes first"
        if prefix < len(ends):
            advance(state, ends[prefix : prefix + 1], prefix, 0.2, 0.7, directed=directed)
    slow = read_versions_reference(lists.find(nodes, before), times, lists.ends, lists.time, lists.versions)
    for row, places in enumerate(slow):
        mask = hood.mask[row]
        assert_array_equal(hood.node[row][mask], [place[0] for place in places])
        assert_array_equal(hood.dt[row][mask], [place[2] for place in places])


@given(event_logs(max_nodes=NODES, min_events=4), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_events_from_a_time_on_never_change_a_query_at_that_time(log, cut, random):
    at = int(log.time[len(log.time) * cut // 4])
    hidden = int(np.searchsorted(log.time, at, side="left"))
    src, dst = log.src.copy(), log.dst.copy()
    for column in (src, dst):
        column[hidden:] = [random.randrange(NODES) for _ in range(len(column) - hidden)]
    keep = np.arange(len(src)) < max(hidden, len(src) - cut)
    nodes = np.arange(NODES)
    query = (nodes, np.full(NODES, at), np.full(NODES, hidden))
    sampler = TPPR(6, alpha=(0.1, 0.3), beta=(0.5, 0.95))
    one = ask(sampler, TemporalCSR.from_events(log.src, log.dst, log.time, NODES), *query)
    two = ask(sampler, TemporalCSR.from_events(src[keep], dst[keep], log.time[keep], NODES), *query)
    for name in ("node", "event", "dt", "mask", "weight"):
        assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


@given(event_logs(max_nodes=NODES))
@settings(max_examples=40, deadline=None)
def test_an_ensemble_interleaves_the_lists_of_its_pairs(log):
    index = TemporalCSR.from_events(log.src, log.dst, log.time, NODES)
    query = grid(log)
    both = ask(TPPR(6, alpha=(0.1, 0.4), beta=(0.5, 0.9)), index, *query)
    for lane, single in enumerate((TPPR(3, 0.1, 0.5), TPPR(3, 0.4, 0.9))):
        alone = ask(single, index, *query)
        for name in ("node", "event", "dt", "mask", "weight"):
            assert_array_equal(getattr(both, name)[:, lane::2], getattr(alone, name), err_msg=name)


def test_an_ensemble_keeps_the_rules_of_a_sampler():
    check_sampler(lambda: TPPR(6, alpha=(0.1, 0.4), beta=(0.5, 0.9)), newest_first=False, max_examples=20)
