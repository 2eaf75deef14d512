from dataclasses import replace

import numpy as np
import pytest
import torch

from stepwell.access import Candidates, FixedBatches, Gather, Neighbors, Pipeline, Recent, Uniform, UniformNegatives
from stepwell.core import Machine, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.storage import EventLog
from stepwell.testing import assert_same_bits


def _batch(log, size=10, index=1, **options):
    pipeline = Pipeline(log, FixedBatches(size), negatives=UniformNegatives(2), prefetch=0, **options)
    return next(pipeline.epoch(0, start=index))


def test_rows_lead_from_queries_over_levels_to_nodes_and_events(log):
    batch = _batch(log, sampler=Recent(3), hops=2)
    first, last = batch.levels
    assert torch.equal(first.node[batch.src_row], batch.src)
    assert torch.equal(first.node[batch.candidate_row], batch.candidate)
    assert torch.equal(first.time[batch.candidate_row], batch.time[:, None].expand(-1, 3))
    assert torch.equal(last.node[first.self_row], first.node)
    assert torch.equal(last.time[first.self_row], first.time)
    assert torch.equal(batch.nodes[last.self_row], last.node)
    seen = last.hood.mask
    assert torch.equal(batch.nodes[last.neighbor_row][seen], last.hood.node[seen])
    for level in batch.levels:
        seen = level.hood.mask
        assert torch.equal(batch.events[level.event_row][seen], level.hood.event[seen])
        assert (level.event_row[~seen] == 0).all()
        assert (level.neighbor_row[~seen] == 0).all()


def test_targets_nodes_and_events_are_distinct(log):
    batch = _batch(log, sampler=Uniform(3), hops=2)
    for level in batch.levels:
        targets = torch.stack([level.node, level.time, level.before])
        assert len(torch.unique(targets, dim=1).T) == len(level.node)
    assert len(torch.unique(batch.nodes)) == len(batch.nodes)
    assert len(torch.unique(batch.events)) == len(batch.events)


def test_keyed_by_node_there_is_one_target_a_node_asked_when_the_batch_begins(log):
    batch = _batch(log, sampler=Recent(3), hops=2, as_of="batch", hop_time="root", keyed_by="node")
    for level in batch.levels:
        assert len(torch.unique(level.node)) == len(level.node)
        assert (level.time == batch.time[0]).all()
        assert (level.before == batch.event[0]).all()
        assert (level.hood.dt >= 0).all()
    assert torch.equal(batch.levels[0].node[batch.candidate_row], batch.candidate)


def test_keyed_by_node_or_by_time_the_same_events_are_seen(log):
    coarse = _batch(log, sampler=Recent(3), as_of="batch", keyed_by="node")
    fine = _batch(log, sampler=Recent(3), as_of="batch")
    for rows in ("src_row", "candidate_row"):
        assert torch.equal(coarse.levels[0].hood.event[coarse[rows]], fine.levels[0].hood.event[fine[rows]])


def test_a_query_draws_the_same_past_in_any_batch(log):
    small = [_batch(log, size=1, index=i, sampler=Uniform(2)) for i in range(40)]
    whole = _batch(log, size=40, index=0, sampler=Uniform(2))
    found = torch.cat([batch.levels[0].hood.event[batch.src_row] for batch in small])
    assert torch.equal(found, whole.levels[0].hood.event[whole.src_row])


def test_bad_options_name_what_is_allowed(log):
    with pytest.raises(InvalidValueError, match="`hops` must be at least 1"):
        Neighbors(log, Recent(2), hops=0)
    with pytest.raises(InvalidValueError, match="`as_of` must be 'event' or 'batch', got 'now'"):
        Neighbors(log, Recent(2), as_of="now")
    with pytest.raises(InvalidValueError, match="`as_of` must be 'batch' with keyed_by='node'"):
        Neighbors(log, Recent(2), keyed_by="node")
    with pytest.raises(InvalidValueError, match="'root' with keyed_by='node' and several hops"):
        Neighbors(log, Recent(2), hops=2, as_of="batch", keyed_by="node")


def test_the_stage_prints_itself_and_predicts_more_for_more_hops(log):
    one, two = Neighbors(log, Recent(2)), Neighbors(log, Recent(2), hops=2, as_of="batch", hop_time="root")
    assert str(one) == "Neighbors(Recent(k=2), as_of=event)"
    assert str(two) == "Neighbors(Recent(k=2), as_of=batch, hops=2, hop_time=root)"
    assert str(replace(two, keyed_by="node")).endswith("keyed_by=node)")
    stats = replace(log.statistics(), batch_size=10, candidates=3)
    assert one.cost(stats, Machine()).seconds < two.cost(stats, Machine()).seconds
    nodes = replace(two, keyed_by="node")
    assert nodes.cost(stats, Machine()).rows <= two.cost(stats, Machine()).rows


def test_gather_gives_the_rows_of_distinct_events_and_nodes(log):
    batch = _batch(log, sampler=Recent(3))
    assert torch.equal(batch.event_feature, torch.from_numpy(log.event_feature)[batch.events])
    assert torch.equal(batch.node_feature, torch.from_numpy(log.node_feature)[batch.nodes])
    assert torch.equal(batch.own_feature, torch.from_numpy(log.event_feature)[batch.event])
    assert batch.event_feature.dtype == torch.float32


def test_gather_of_a_log_without_features_needs_and_gives_nothing():
    log = EventLog.from_arrays(src=[0], dst=[1], time=[1])
    stage = Gather(log)
    assert stage.needs == stage.gives == frozenset()
    assert stage.cost(log.statistics(), Machine()).size_bytes == 0
    batch = _batch(log, index=0, sampler=Recent(3))
    assert "event_feature" not in batch
    assert len(batch.events) == 0


def test_gather_predicts_bytes_from_the_width_of_the_features(log):
    stats = replace(log.statistics(), batch_size=10, candidates=2)
    cost = Gather(log).cost(stats, Machine())
    assert cost.rows > 0
    assert cost.size_bytes > 0


def test_the_stages_work_by_themselves_on_arrays(log):
    batch = log.read(Slice(0, 1, 10, 20))
    for stage in (Candidates(log, UniformNegatives(2)), Neighbors(log, Recent(3)), Gather(log)):
        batch = stage(batch)
    assert isinstance(batch.nodes, np.ndarray)
    assert_same_bits(batch.to("cpu").nodes, _batch(log, sampler=Recent(3)).nodes)
