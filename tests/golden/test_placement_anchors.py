"""Placement and reuse on public streams reach the known optima: intervals, hits of MRD, and of LRU beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.reuse import reuse_of, training_part
from benchmarks.streams import stream
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.access.placement import Family, collect_traces
from stepwell.buffer import LRU, Belady
from stepwell.buffer.belady import hit_curve
from stepwell.buffer.interval import densest, end_counts
from stepwell.buffer.mrd import reuse_trace
from stepwell.buffer.simulate import simulate
from stepwell.testing.oracle import most_saved

_DATA = Path(os.environ.get("STEPWELL_DATA", ""))

pytestmark = pytest.mark.skipif(
    not os.environ.get("STEPWELL_DATA")
    or not all((_DATA / name / "interactions.parquet").exists() for name in ("jodie-wikipedia", "collegemsg")),
    reason="needs STEPWELL_DATA with jodie-wikipedia and collegemsg",
)


@pytest.mark.parametrize(
    ("name", "size", "family", "intervals", "optima"),
    [
        ("jodie-wikipedia", 2000, "node_feature", 74174, {184: (10120, 1295197), 922: (48656, 1878380)}),
        ("jodie-wikipedia", 2000, "event_feature", 221166, {2204: (115514, 573983), 11023: (216959, 793399)}),
        ("collegemsg", 1000, "node_feature", 18754, {37: (1517, 407946), 189: (7717, 712376)}),
        ("collegemsg", 1000, "event_feature", 80330, {837: (33832, 203836), 4188: (79519, 286164)}),
    ],
)
def test_interval_optima_of_public_streams_are_the_known_ones(name, size, family, intervals, optima):
    log = stream(name)
    log = log[: int(0.7 * len(log))]
    families = {family: Family(len(log) if family == "event_feature" else log.num_nodes, 4)}
    batches = Pipeline(log, FixedBatches(size), sampler=Recent(10), prefetch=0)
    trace = collect_traces(batches, families, counts=True)[family]
    assert (trace.next_use < len(trace)).sum() == intervals
    assert hit_curve(trace, list(optima)) == [unit for unit, _ in optima.values()]
    profit = end_counts(trace)
    for capacity, (unit, count) in optima.items():
        kept = densest(trace, capacity, profit)
        assert 0.998 * count <= profit[kept].sum() <= count
        assert 0.8 * unit <= kept.sum() <= unit
    if name == "collegemsg" and family == "node_feature":
        for capacity, (unit, count) in optima.items():
            assert most_saved(trace, capacity) == pytest.approx(unit, abs=1e-3)
            assert most_saved(trace, capacity, profit) == pytest.approx(count, abs=1e-3)


def test_reuse_on_wikipedia_hits_as_known_within_a_point_of_the_held_out_draw():
    reuse = reuse_of(training_part(stream("jodie-wikipedia")))
    trace = reuse_trace(reuse.targets, reuse.needs)
    assert reuse.in_batch == pytest.approx(0.783, abs=0.01)
    assert len(reuse.needs.ids) == pytest.approx(75_914, rel=0.05)
    for capacity, mrd, lru in ((100, 0.4406, None), (500, 0.8571, 0.513), (1000, 0.9776, 0.749), (1500, 1.0, 0.882)):
        assert simulate(Belady(), trace, capacity).hit_rate == pytest.approx(mrd, abs=0.01)
        if lru is not None:  # below a batch's width the order of equally recent rows decides, which is nobody's rule
            assert simulate(LRU(), trace, capacity).hit_rate == pytest.approx(lru, abs=0.01)
    assert most_saved(trace, 100) == simulate(Belady(), trace, 100).hits
