"""Reused embeddings: who serves whom, who is kept, and what the plan promises."""

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.reuse import reuse_stage
from stepwell.buffer.belady import soonest
from stepwell.buffer.mrd import reuse_trace
from stepwell.buffer.reuse import EmbeddingReuse, ReuseCounts
from stepwell.buffer.trace import Trace
from stepwell.core.errors import InvalidValueError, PlanError, UnknownNameError
from stepwell.storage import EventLog
from stepwell.testing import assert_same_bits

SIZE, K = 16, 4


@pytest.fixture(scope="module")
def stream():
    random = np.random.default_rng(4)
    return EventLog.from_arrays(
        src=random.integers(0, 30, 400), dst=random.integers(30, 45, 400), time=np.sort(random.integers(0, 300, 400))
    )


def build(log, hops=3, hop_time="root", prefetch=0, seed=5, **options):
    stage = reuse_stage(log, EmbeddingReuse(**options), Recent(K), hops, hop_time=hop_time, seed=seed)
    pipeline = Pipeline(
        log, FixedBatches(SIZE), negatives=UniformNegatives(1), stages=[stage], prefetch=prefetch, seed=seed
    )
    return pipeline, stage


def total(stage):
    return [(layer.hits, layer.misses) for layer in stage.counts]


@pytest.mark.parametrize(
    ("options", "name"),
    [({"rows": -1}, "rows"), ({"max_age": 0}, "max_age"), ({"gradient": "stop"}, "gradient")],
)
def test_settings_out_of_range_are_refused(options, name):
    with pytest.raises(InvalidValueError, match=f"`{name}`"):
        EmbeddingReuse(**options)


def test_reuse_wants_targets_that_are_keyed_by_node_and_time(stream):
    with pytest.raises(InvalidValueError, match="`keyed_by`"):
        Pipeline(stream, sampler=Recent(K), as_of="batch", keyed_by="node", reuse=EmbeddingReuse())


def test_an_unknown_policy_is_refused_with_a_hint():
    with pytest.raises(UnknownNameError, match="Did you mean 'lru'"):
        EmbeddingReuse(policy="lrue")


def test_one_layer_is_exactly_what_neighbors_gives(stream):
    exact = Pipeline(stream, FixedBatches(SIZE), negatives=UniformNegatives(1), sampler=Recent(K), prefetch=0, seed=5)
    reused, stage = build(stream, hops=1)
    assert stage.accuracy == "same"
    for one, other in zip(exact, reused, strict=True):
        assert other.reuse == ()
        for field in ("levels", "nodes", "events", "src_row", "candidate_row"):
            assert_same_bits(one[field], other[field])


@pytest.mark.parametrize("hop_time", ["root", "edge"])
@pytest.mark.parametrize("policy", ["mrd", "lru"])
def test_every_place_is_served_by_its_node_at_no_later_time(stream, policy, hop_time):
    pipeline, _ = build(stream, hop_time=hop_time, rows=8, policy=policy)
    for batch in pipeline:
        for level, below, reused in zip(batch.levels[:-1], batch.levels[1:], batch.reuse, strict=True):
            node = torch.cat([below.node, reused.pull_node])
            seen, row = level.hood.mask, level.neighbor_row
            asked = level.time[:, None] - (level.hood.dt if hop_time == "edge" else 0)
            assert torch.equal(node[row][seen], level.hood.node[seen])
            own = row < len(below.node)
            assert (below.time[torch.where(own, row, 0)] <= asked)[seen & own].all()
            assert torch.equal(below.node[: len(level.node)], level.node)
            assert torch.equal(level.self_row, torch.arange(len(level.node)))


def test_the_papers_rule_serves_embeddings_of_later_times(stream):
    pipeline, _ = build(stream, hops=2, causal=False)
    later = 0
    for batch in pipeline:
        level, below = batch.levels
        own = level.hood.mask & (level.neighbor_row < len(below.node))
        later += int((below.time[level.neighbor_row.clamp(max=len(below.node) - 1)] > level.time[:, None])[own].sum())
    assert later > 0


@pytest.mark.parametrize("policy", ["mrd", "lru", "2q"])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_no_more_rows_than_asked_for_are_ever_kept_and_each_is_its_nodes_newest(stream, policy, rows):
    pipeline, _ = build(stream, rows=rows, policy=policy)
    kept = [{}, {}]
    for batch in pipeline:
        for depth, (below, reused) in enumerate(zip(batch.levels[1:], batch.reuse, strict=True)):
            slots, nodes = reused.pull_slot.tolist(), reused.pull_node.tolist()
            assert all(kept[depth][slot][0] == node for slot, node in zip(slots, nodes, strict=True))
            assert len(set(reused.push_slot.tolist())) == len(reused.push_slot)
            for row, slot in zip(reused.push_row.tolist(), reused.push_slot.tolist(), strict=True):
                node = int(below.node[row])
                assert below.time[row] == below.time[below.node == node].max()
                kept[depth] = {s: held for s, held in kept[depth].items() if held[0] != node}
                kept[depth][slot] = (node,)
            assert len(kept[depth]) <= rows


@pytest.mark.parametrize("hop_time", ["root", "edge"])
def test_the_plan_hits_as_often_as_it_foresaw_negatives_included(stream, hop_time):
    everything, _ = build(stream, hops=2, hop_time=hop_time, rows=0)
    made, needed = [], []
    for batch in everything.epoch(3):
        made.append(np.unique(batch.levels[0].node.numpy()))
        needed.append(batch.levels[1].node.numpy()[len(batch.levels[0].node) :])
    trace = reuse_trace(Trace.of(made, stream.num_nodes), Trace.of(needed, stream.num_nodes))
    for rows in (3, 9, 40):
        pipeline, stage = build(stream, hops=2, hop_time=hop_time, rows=rows)
        list(pipeline.epoch(3))
        assert stage.counts[0].hits == soonest(trace, rows).sum()
        assert stage.counts[0].hits + stage.counts[0].misses == sum(map(len, needed))


@pytest.mark.parametrize("policy", ["lru", "lfu", "2q", "sieve"])
def test_no_policy_recomputes_less_than_the_plan(stream, policy):
    best, other = build(stream, hops=2, rows=10)[0], build(stream, hops=2, rows=10, policy=policy)[0]
    misses = [sum(batch.reuse[0].counts.misses for batch in pipeline) for pipeline in (best, other)]
    assert misses[0] <= misses[1]


def test_embeddings_older_than_the_limit_are_computed_anew(stream):
    free, limited = (build(stream, hops=2, rows=45, policy="lru", max_age=age) for age in (None, 1))
    list(free[0])
    list(limited[0])
    assert free[1].counts[0].mean_age > 1
    assert limited[1].counts[0].age == limited[1].counts[0].hits > 0


def test_batches_depend_neither_on_prefetch_nor_on_where_the_epoch_begins(stream):
    whole = list(build(stream, rows=6)[0].epoch(1))
    ahead = list(build(stream, rows=6, prefetch=3)[0].epoch(1))
    rest = list(build(stream, rows=6, prefetch=3)[0].epoch(1, start=7))
    for one, other in [*zip(whole, ahead, strict=True), *zip(whole[7:], rest, strict=True)]:
        for field in ("levels", "reuse", "nodes", "events"):
            assert_same_bits(one[field], other[field])


def test_each_epoch_begins_with_nothing_kept(stream):
    pipeline, _ = build(stream, rows=20)
    for epoch in range(2):
        batch = next(iter(pipeline.epoch(epoch)))
        assert all(reused.first and not len(reused.pull_slot) for reused in batch.reuse)


def test_a_planning_stage_outside_a_pipeline_says_what_it_lacks(stream):
    stage = reuse_stage(stream, EmbeddingReuse(), Recent(K), 2)
    batch = next(iter(Pipeline(stream, FixedBatches(SIZE), negatives=UniformNegatives(1), prefetch=0)))
    with pytest.raises(PlanError, match="foresee"):
        stage(batch)


def test_counts_add_up_and_say_which_share_they_mean():
    counts = ReuseCounts(2, 3, 1, 6, 3, 1, 9) + ReuseCounts(misses=2)
    assert (counts.hit_rate, counts.in_batch_share, counts.mean_age) == (0.5, 0.6, 3.0)
    assert "60.0% of places served in the batch" in str(counts)
    assert "50.0% of distinct needs" in str(counts)


def test_level_zero_is_that_of_the_exact_stage(stream):
    exact = Pipeline(
        stream, FixedBatches(SIZE), negatives=UniformNegatives(1), sampler=Recent(K), hops=3, prefetch=0, seed=5
    )
    for batch, wanted in zip(build(stream, rows=5)[0], exact, strict=True):
        for name in ("node", "time", "before", "hood"):
            assert_same_bits(getattr(batch.levels[0], name), getattr(wanted.levels[0], name))
