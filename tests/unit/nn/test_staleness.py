"""The staleness of reused embeddings is measured, bounded by Theorem 5, and measuring changes nothing."""

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Gather, Pipeline, Recent, UniformNegatives
from stepwell.access.reuse import ReusedNeighbors
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.nn.attention import TemporalAttention
from stepwell.nn.lipschitz import Constants, Rows, attention_constants, output_bound
from stepwell.nn.plain import plain_attention
from stepwell.nn.staleness import StalenessMeter
from stepwell.nn.time import TimeEncoding
from stepwell.storage import EventLog
from stepwell.train import link_loss

SIZE, K, NODES, FEATURES = 20, 4, 25, 3


@pytest.fixture(scope="module")
def log():
    random = np.random.default_rng(0)
    return EventLog.from_arrays(
        random.integers(0, 15, 400),
        random.integers(15, NODES, 400),
        np.sort(random.integers(0, 400, 400)),
        features=random.standard_normal((400, FEATURES)),
        node_features=random.standard_normal((NODES, 2)),
        num_nodes=NODES,
    )


def model_of(kind, hops, dropout=0.0):
    torch.manual_seed(1)
    if kind == "tgn":
        return TGN(NODES, FEATURES, 2, TGNSettings(8, 8, 8, hops=hops, k=K, dropout=dropout))
    return TGAT(NODES, FEATURES, 2, TGATSettings(8, 8, hops=hops, k=K, dropout=dropout))


def pipeline(log, hops, reuse):
    options = {"negatives": UniformNegatives(1), "sampler": Recent(K), "hops": hops, "hop_time": "root", "prefetch": 0}
    made = Pipeline(log, FixedBatches(SIZE), reuse=reuse, seed=4, **options)
    return made, next(stage for stage in made.stages if isinstance(stage, ReusedNeighbors))


def train(log, model, hops, reuse, every=0, lr=1e-2):
    """Train an epoch; return its losses, and the meter if one sampled every so many batches."""
    batches, stage = pipeline(log, hops, reuse)
    meter = StalenessMeter(model, stage, every, 30) if every else None
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for batch in batches:
        if meter is not None:
            meter.see(batch)
        optimizer.zero_grad()
        loss = link_loss(model, batch)
        loss.backward()
        model.observe(batch)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, meter


@pytest.mark.parametrize("seed", range(5))
def test_attention_moves_no_further_than_its_constants_say(seed):
    torch.manual_seed(seed)
    layer = TemporalAttention(6, 8, 3, TimeEncoding(4), heads=2, dropout=0.0)
    mask = torch.rand(50, K) < 0.8
    mask[:, 0] = True
    edge, fresh, own = torch.randn(50, K, 7), 2 * torch.randn(50, K, 6), torch.randn(50, 6)
    size = torch.rand(50, 1, 1) * 3
    rows = Rows(mask, fresh + size * torch.randn(50, K, 6), own + size[:, 0] * torch.randn(50, 6), fresh, own)
    near, through = attention_constants(layer, rows, edge)
    moved = plain_attention(layer, rows.read_own, rows.read, edge, mask) - plain_attention(
        layer, own, fresh, edge, mask
    )
    error = ((rows.read - fresh).norm(dim=2) * mask).max(1).values
    assert (moved.norm(dim=1) <= near * error + through * (rows.read_own - own).norm(dim=1) + 1e-4).all()
    assert (moved.norm(dim=1) > 0.05 * near * error).any()


def test_the_bound_is_that_of_theorem_five():
    errors = [torch.tensor([0.2]), torch.tensor([0.5])]
    constants = [
        Constants(torch.tensor([1.5]), torch.tensor([0.4])),
        Constants(torch.tensor([2.0]), torch.tensor([0.1])),
    ]
    k, one, two = 3, 2.0, 0.4
    by_hand = k * (1 + k * two) * one**2 * two * 0.5 + k * one * two * 0.2
    assert output_bound(errors, constants, torch.tensor([3])).item() == pytest.approx(by_hand)
    assert output_bound(errors, [], torch.tensor([3])).isinf().all()


@pytest.mark.parametrize("kind", ["tgn", "tgat"])
@pytest.mark.parametrize("hops", [2, 3])
@pytest.mark.parametrize(
    "reuse", [EmbeddingReuse(rows=12), EmbeddingReuse(rows=12, policy="lru", max_age=3), EmbeddingReuse(causal=False)]
)
def test_outputs_stay_within_the_bound_and_are_off_at_all(log, kind, hops, reuse):
    _, meter = train(log, model_of(kind, hops), hops, reuse, every=3)
    assert meter is not None
    found = meter.report()
    assert found is not None and found.layers == tuple(range(1, hops))
    assert found.outputs.held == found.outputs.num > 50
    assert found.outputs.bound is not None and found.outputs.sharp is not None
    assert 0 < found.outputs.mean < found.outputs.sharp < found.outputs.bound
    assert found.groups[0].youngest == 0 and any(group.youngest > 0 for group in found.groups)
    if reuse.max_age is not None:
        assert max(group.oldest for group in found.groups) <= reuse.max_age


def test_a_meter_of_a_bound_that_is_too_small_says_so(log, monkeypatch):
    monkeypatch.setattr("stepwell.nn.staleness.output_bound", lambda errors, *_: 1e-6 * errors[0])
    _, meter = train(log, model_of("tgn", 2), 2, EmbeddingReuse(), every=3)
    found = None if meter is None else meter.report()
    assert found is not None and found.outputs.held < found.outputs.num
    assert "all within" not in str(found)


@pytest.mark.parametrize("kind", ["tgn", "tgat"])
def test_measuring_changes_no_bit_of_training(log, kind):
    runs = [model_of(kind, 3, dropout=0.3) for _ in range(2)]
    losses = []
    for model, every in zip(runs, (0, 2), strict=True):
        torch.manual_seed(8)
        losses.append(train(log, model, 3, EmbeddingReuse(rows=12), every)[0])
    assert losses[0] == losses[1]
    assert all(torch.equal(one, other) for one, other in zip(runs[0].parameters(), runs[1].parameters(), strict=True))


def test_a_model_that_stands_still_has_stale_rows_only_through_new_events(log):
    """Without memory and learning, a neighbour that met nobody since differs only by the time that passed."""
    still, moving = model_of("tgat", 2), model_of("tgat", 2)
    reports = [train(log, m, 2, EmbeddingReuse(), 3, lr)[1] for m, lr in ((still, 0.0), (moving, 0.5))]
    off = [sum(g.mean * g.num for g in r.report().groups) for r in reports]
    assert off[0] < off[1]


def test_the_difference_is_that_of_the_rows_themselves(log):
    """What is measured of one batch equals a recursion by hand: layer 1 of each neighbour at the target's time."""
    model = model_of("tgn", 2)
    batches, stage = pipeline(log, 2, EmbeddingReuse(rows=12))
    for batch in batches:
        meter = StalenessMeter(model, stage, 1, 1000)
        meter.see(batch)
        found = meter.report()
        if batch.slice.index == 10:
            break
        with torch.no_grad():
            model.score(batch)
            model.observe(batch)
    level, below = batch.levels[0], batch.levels[1]
    with torch.no_grad(), model.reuse.watched() as read:
        model.eval().embed(batch)
    one = model_of("tgn", 1)
    one.load_state_dict(model.state_dict(), strict=False)
    off, norm = [], []
    for i, j in level.hood.mask.nonzero().tolist():
        row = int(level.neighbor_row[i, j])
        asked = [np.array([int(part)]) for part in (level.hood.node[i, j], level.time[i], level.before[i])]
        levels, nodes, events = stage._top.below(*asked, 0)
        alone = Gather(log)(Batch(batch.slice, levels=levels, nodes=nodes, events=events, seconds=batch.seconds))
        with torch.no_grad():
            wanted = torch.relu(one.eval().embed(alone.to("cpu")))[0]
        off.append(float((read[-1][row] - wanted).norm()))
        norm.append(float(wanted.norm()))
        assert row < len(below.node) + len(batch.reuse[0].pull_node)
    assert found is not None
    num = sum(group.num for group in found.groups)
    assert num == len(off)
    assert sum(g.mean * g.num for g in found.groups) == pytest.approx(sum(off), rel=1e-3)
    assert sum(g.norm * g.num for g in found.groups) == pytest.approx(sum(norm), rel=1e-3)


def test_numbers_out_of_range_are_refused(log):
    _, stage = pipeline(log, 2, EmbeddingReuse())
    for options in ({"every": 0}, {"targets": 0}):
        with pytest.raises(InvalidValueError, match="at least 1"):
            StalenessMeter(model_of("tgn", 2), stage, **options)


def test_nothing_is_reported_before_anything_was_sampled(log):
    _, meter = train(log, model_of("tgn", 2), 2, EmbeddingReuse(), every=1000)
    assert meter is not None and meter.report() is None
