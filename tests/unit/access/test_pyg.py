"""Batches as graphs of PyTorch Geometric, its data as a source, and life without it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import stepwell as sw
from stepwell.access.pyg import to_data
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.datasets.synthetic import Habits, habits
from stepwell.storage import EventLog


def tiny():
    return EventLog.from_arrays(
        src=[0, 1, 0, 0],
        dst=[2, 2, 3, 2],
        time=[10, 20, 30, 40],
        features=[[1.0], [2.0], [3.0], [4.0]],
        node_features=[[0.0], [0.1], [0.2], [0.3]],
    )


def edges(data):
    """Return (neighbour, target, event, dt, feature) of each edge, with nodes of the log."""
    source, target = data.n_id[data.edge_index].tolist()
    return list(
        zip(source, target, data.e_id.tolist(), data.edge_dt.tolist(), data.edge_attr[:, 0].tolist(), strict=True)
    )


def test_edges_are_those_made_by_hand():
    pytest.importorskip("torch_geometric")
    batch = list(sw.Pipeline(tiny(), sw.FixedBatches(1), sampler=sw.Recent(2), prefetch=0))[3]
    data = to_data(batch)
    data.validate()
    assert data.n_id[: data.batch_size].tolist() == [0, 2]
    assert data.time.tolist() == [40, 40]
    assert edges(data) == [(3, 0, 2, 10, 3.0), (2, 0, 0, 30, 1.0), (1, 2, 1, 20, 2.0), (0, 2, 0, 30, 1.0)]
    assert data.edge_time.tolist() == [30, 10, 20, 10]
    assert data.edge_index.tolist() == [[2, 1, 3, 0], [0, 0, 1, 1]]
    assert data.x[:, 0].tolist() == pytest.approx((data.n_id * 0.1).tolist())
    assert (data.src_row.tolist(), data.candidate_row.tolist()) == ([0], [[1]])


def test_one_node_at_two_times_is_two_targets_with_a_past_each():
    pytest.importorskip("torch_geometric")
    batch = next(iter(sw.Pipeline(tiny(), sw.FixedBatches(4), sampler=sw.Recent(1), prefetch=0)))
    data = to_data(batch)
    targets = list(zip(data.n_id[: data.batch_size].tolist(), data.time.tolist(), strict=True))
    assert len(set(targets)) == len(targets) == 8
    seen = {targets[t]: e for t, e in zip(data.edge_index[1].tolist(), data.e_id.tolist(), strict=True)}
    assert seen == {(2, 20): 0, (0, 30): 0, (0, 40): 2, (2, 40): 1}
    assert data.n_id.tolist() == batch.nodes[data.below_row].tolist()


def test_levels_chain_by_below_row():
    pytest.importorskip("torch_geometric")
    pipeline = sw.Pipeline(tiny(), sw.FixedBatches(2), sampler=sw.Recent(2), hops=2, prefetch=0)
    for batch in pipeline:
        upper, lower = to_data(batch, 0), to_data(batch, 1)
        assert torch.equal(upper.n_id, lower.n_id[: lower.batch_size][upper.below_row])
        assert "src_row" not in lower


def test_a_level_that_is_not_there_is_refused():
    pytest.importorskip("torch_geometric")
    batch = next(iter(sw.Pipeline(tiny(), sw.FixedBatches(2), sampler=sw.Recent(1), prefetch=0)))
    with pytest.raises(InvalidValueError, match="0 to 0"):
        to_data(batch, 1)
    with pytest.raises(UnknownNameError, match="levels"):
        to_data(next(iter(sw.Pipeline(tiny(), sw.FixedBatches(2), prefetch=0))))


@pytest.mark.parametrize(("name", "keyed_by"), [("TransformerConv", "node_time"), ("SAGEConv", "node")])
def test_a_message_passing_model_learns_from_the_batches(name, keyed_by, tmp_path):
    nn = pytest.importorskip("torch_geometric.nn")
    stream = habits(Habits(users=40, items=20, events=1_000))
    log = sw.open(tmp_path).events("clicks", stream, src=("user", "user"), dst=("item", "item"), features=["features"])
    as_of = "batch" if keyed_by == "node" else "event"
    pipeline = sw.Pipeline(
        log, sw.FixedBatches(100), negatives=sw.UniformNegatives(), sampler=sw.Recent(5), as_of=as_of, keyed_by=keyed_by
    )
    torch.manual_seed(0)
    table = torch.nn.Embedding(log.num_nodes, 16)
    with_edges = name == "TransformerConv"
    conv = nn.TransformerConv(16, 16, edge_dim=log.event_feature.shape[1]) if with_edges else nn.SAGEConv(16, 16)
    optimizer = torch.optim.Adam([*table.parameters(), *conv.parameters()], lr=2e-2)
    losses = []
    for epoch in range(5):
        total = 0.0
        for batch in pipeline.epoch(epoch):
            data = to_data(batch)
            extra = (data.edge_attr,) if with_edges else ()
            z = conv(table(data.n_id), data.edge_index, *extra)[: data.batch_size]
            logits = (z[data.src_row][:, None] * z[data.candidate_row]).sum(2)
            truth = torch.zeros_like(logits)
            truth[:, 0] = 1
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < 0.8 * losses[0]


def test_a_log_survives_the_way_through_temporal_data(tmp_path):
    pytest.importorskip("torch_geometric")
    log = EventLog.from_arrays(
        src=[0, 1, 0], dst=[2, 2, 3], time=[1, 2, 2], features=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], label=[0, 1, 0]
    )
    data = log.to_pyg()
    again = sw.open(tmp_path).events("log", data, src="src", dst="dst", time="t", features=["msg"], label="y", unit="s")
    back = again.to_pyg()
    assert np.array_equal(again.keys(back.src), data.src)
    assert np.array_equal(again.keys(back.dst), data.dst)
    for field in ("t", "msg", "y"):
        assert torch.equal(back[field], data[field]), field


def test_without_pyg_only_the_conversion_fails_and_says_what_to_install():
    code = """
import sys
sys.modules["torch_geometric"] = None
sys.modules["torch_geometric.data"] = None
import stepwell as sw
from stepwell.access.pyg import to_data
from stepwell.core.errors import MissingExtraError
log = sw.EventLog.from_arrays([0, 1, 0], [2, 2, 3], [1, 2, 3])
model = sw.TGN(log.num_nodes)
for batch in sw.Pipeline(log, sw.FixedBatches(3), sampler=sw.Recent(2)):
    model.score(batch)
for convert in (lambda: to_data(batch), log.to_pyg):
    try:
        convert()
    except MissingExtraError as error:
        assert "pip install 'stepwell[pyg]'" in str(error), error
    else:
        raise AssertionError("must be refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
