"""What an epoch touches, and how a budget becomes tiers."""

from collections import Counter

import numpy as np
import pytest

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.placement import (
    Family,
    Placement,
    collect_traces,
    families_of,
    foresee_placement,
    named_by,
    plan_placement,
)
from stepwell.buffer import LRU, Belady, DensityGreedy, Interval, StaticHot
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.storage import EventLog

FAMILIES = {"event_feature": Family(300, 40), "node_feature": Family(20, 100), "memory": Family(20, 64)}


def batches_of(log, hops=1, size=40):
    options = {"negatives": UniformNegatives(), "sampler": Recent(3), "hops": hops, "prefetch": 0}
    return Pipeline(log, FixedBatches(size), **options)


@pytest.fixture
def stream():
    random = np.random.default_rng(3)
    src, dst = random.integers(0, 20, (2, 300))
    return EventLog.from_arrays(src=src, dst=dst, time=np.sort(random.integers(0, 200, 300)), num_nodes=20)


@pytest.mark.parametrize("hops", [1, 2])
def test_traces_hold_what_each_batch_touches_and_rewrites(stream, hops):
    traces = collect_traces(batches_of(stream, hops), FAMILIES)
    for i, batch in enumerate(batches_of(stream, hops)):
        assert np.array_equal(traces["event_feature"].batch(i), batch.array("events"))
        for name in ("node_feature", "memory"):
            assert np.array_equal(traces[name].batch(i), batch.array("nodes"))
        span = slice(*traces["memory"].indptr[i : i + 2])
        written = set(traces["memory"].ids[span][traces["memory"].writes[span]].tolist())
        assert written == {*batch.array("src").tolist(), *batch.array("dst").tolist()}
    assert traces["event_feature"].writes is None
    assert traces["event_feature"].count is None
    assert len(traces["event_feature"]) == 8


@pytest.mark.parametrize("hops", [1, 2])
def test_counts_are_those_of_samples_that_nobody_deduplicated(stream, hops):
    for batch in batches_of(stream, hops):
        nodes, events = Counter(), Counter()

        def visit(row, depth, batch=batch, nodes=nodes, events=events):
            levels = batch.levels_of()
            if depth == len(levels):
                nodes[batch.array("nodes")[row]] += 1
                return
            level = levels[depth]
            visit(int(level.self_row[row]), depth + 1)
            for place in np.flatnonzero(np.asarray(level.hood.mask[row])):
                events[int(level.hood.event[row, place])] += 1
                visit(int(level.neighbor_row[row, place]), depth + 1)

        for row in [*batch.array("src_row").tolist(), *batch.array("candidate_row").ravel().tolist()]:
            visit(row, 0)
        of_nodes, of_events = named_by(batch)
        assert dict(zip(batch.array("nodes").tolist(), of_nodes.tolist(), strict=True)) == nodes
        found = dict(zip(batch.array("events").tolist(), of_events.tolist(), strict=True))
        assert {event: count for event, count in found.items() if count} == events


@pytest.mark.parametrize("policy", [Belady(2000), Interval(2000), StaticHot(2000), DensityGreedy(2000), LRU(2000)])
def test_a_budget_becomes_tiers_that_fit_it_and_follow_the_epoch(stream, policy):
    traces = collect_traces(batches_of(stream), FAMILIES, counts=True)
    placement = plan_placement(policy, FAMILIES, traces, seconds=1.5)
    assert sum(rows * FAMILIES[name].row_bytes for name, rows in placement.capacity.items()) <= 2000
    assert sum(placement.capacity.values()) > 0
    assert placement.seconds > 1.5
    for name, trace in traces.items():
        resident = set()
        for i in range(len(trace)):
            admit, evict = placement.step(name, trace.batch(i))
            resident = (resident - set(evict.tolist())) | set(admit.tolist())
            assert len(resident) <= placement.capacity[name]
    with pytest.raises(UnknownNameError):
        placement.step("mail", np.zeros(0, np.int64))


def test_an_online_policy_needs_no_trace_and_a_planned_one_does():
    placement = plan_placement(LRU("1MB"), FAMILIES)
    assert placement.capacity == {"event_feature": 300, "node_feature": 20, "memory": 20}
    assert sum(plan_placement(LRU(1000), FAMILIES).capacity.values()) > 0
    with pytest.raises(InvalidValueError, match="`trace` must be the trace of the epoch"):
        plan_placement(Interval("1MB"), FAMILIES)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("policy", [Interval(9000), DensityGreedy(9000), LRU(9000)])
def test_a_foreseen_epoch_is_planned_from_the_batch_that_comes_first(stream, policy, start):
    asked = []

    def upstream():
        asked.append(True)
        return iter(batches_of(stream))

    placement = foresee_placement(policy, FAMILIES, upstream, start)
    assert bool(asked) == policy.foresight
    resident, hits = set(), 0
    for batch in list(batches_of(stream))[start:]:
        ids = batch.array("events")
        hits += len(resident & set(ids.tolist()))
        admit, evict = placement.step("event_feature", ids)
        resident = (resident - set(evict.tolist())) | set(admit.tolist())
    assert hits > 0


def test_planning_pays_after_as_many_epochs_as_it_took_savings():
    placement = Placement({}, {}, seconds=6.0)
    assert placement.break_even_epochs(2.0) == 3.0
    assert placement.break_even_epochs(0.0) == float("inf")


def test_the_families_of_a_log_are_its_features_and_the_memory_it_is_told_of(log):
    assert families_of(log) == {"event_feature": Family(40, 20), "node_feature": Family(7, 8)}
    assert families_of(log, 400)["memory"] == Family(7, 400)
