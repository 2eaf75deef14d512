"""What models do with reused embeddings: gradients, causality, state, and how far from exact they are."""

from itertools import islice

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.reuse import reuse_stage
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Neighborhood
from stepwell.core.errors import CheckpointError
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.nn.linear import take
from stepwell.nn.reading import places_of
from stepwell.nn.reuse import RowReuse, _clipped
from stepwell.storage import EventLog
from stepwell.train import link_loss
from stepwell.train.state import load_model, load_optimizer, save_model, save_optimizer

SIZE, K, NODES, FEATURES = 20, 4, 25, 3


def events(num=240, seed=0):
    random = np.random.default_rng(seed)
    src, dst = random.integers(0, 15, num), random.integers(15, NODES, num)
    return src, dst, np.sort(random.integers(0, num, num)), random.standard_normal((num, FEATURES))


def log_of(src, dst, time, features):
    nodes = np.random.default_rng(9).standard_normal((NODES, 2))
    return EventLog.from_arrays(src, dst, time, features=features, node_features=nodes, num_nodes=NODES)


@pytest.fixture(scope="module")
def log():
    return log_of(*events())


def pipeline(log, hops=2, reuse=None, sampler=None, hop_time="root", prefetch=0):
    sampler = sampler or Recent(K)
    stages = [] if reuse is None else [reuse_stage(log, reuse, sampler, hops, hop_time=hop_time)]
    options = {"hops": hops, "hop_time": hop_time, "stages": stages, "prefetch": prefetch}
    return Pipeline(log, FixedBatches(SIZE), negatives=UniformNegatives(1), sampler=sampler, **options)


def model_of(kind, hops):
    torch.manual_seed(1)
    if kind == "tgn":
        return TGN(NODES, FEATURES, 2, TGNSettings(8, 8, 8, hops=hops, k=K, dropout=0.0))
    return TGAT(NODES, FEATURES, 2, TGATSettings(8, 8, hops=hops, k=K, dropout=0.0))


def train(model, batches, optimizer=None):
    """Train on batches; return losses and the last gradients."""
    losses = []
    for batch in batches:
        model.zero_grad()
        loss = link_loss(model, batch)
        loss.backward()
        model.observe(batch)
        losses.append(float(loss.detach()))
        if optimizer is not None:
            optimizer.step()
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["tgn", "tgat"])
def test_with_one_layer_scores_and_gradients_are_bit_equal(log, kind):
    runs = [train(model_of(kind, 1), pipeline(log, 1, reuse)) for reuse in (None, EmbeddingReuse())]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(grad, runs[1][1][name]) for name, grad in runs[0][1].items() if grad is not None)


class Oldest:
    """The first events of a node: a past that stays as it is once it is full."""

    k = 2

    def __call__(self, index, nodes, times, before, draw, rows):
        parts = [[], [], [], []]
        for node, time, end in zip(nodes, times, before, strict=True):
            span = slice(index.indptr[node], index.indptr[node] + self.k)
            seen = index.event[span] < end
            parts[0].append(np.where(seen, index.neighbor[span], -1))
            parts[1].append(np.where(seen, index.event[span], -1))
            parts[2].append(np.where(seen, time - index.time[span], 0))
            parts[3].append(seen)
        shape = (len(nodes), self.k)
        node, event, dt, mask = (np.array(part).reshape(shape) for part in parts)
        return Neighborhood(node.astype(np.int64), event.astype(np.int64), dt.astype(np.int64), mask.astype(bool))


@pytest.mark.parametrize("kind", ["tgn", "tgat"])
@pytest.mark.parametrize("hops", [2, 3])
@pytest.mark.parametrize("options", [{}, {"rows": 5}, {"policy": "lru", "rows": 5}, {"causal": False}], ids=str)
def test_with_nothing_changing_reuse_is_exact(log, kind, hops, options):
    model, begin = model_of(kind, hops), 140
    ends = np.concatenate([log.src[:begin], log.dst[:begin]])
    assert (np.bincount(ends, minlength=NODES) >= Oldest.k).all()
    for batch in pipeline(log[:begin], hops):
        model.observe(batch)
    with torch.no_grad():
        model.time.omega.zero_()
    batches = pipeline(log[begin:], hops, EmbeddingReuse(**options), Oldest())
    hits = 0
    for one, other in zip(pipeline(log[begin:], hops, None, Oldest()), batches, strict=True):
        torch.testing.assert_close(model.score(other), model.score(one), rtol=1e-5, atol=1e-5)
        model.score(other)
        model.reuse.commit()  # keeps embeddings, and leaves the memory as it is
        hits += other.reuse[0].counts.hits
    assert hits


def by_hand(model, batch):
    """Return scores of a 2-layer TGN whose neighbours' embeddings are detached one by one."""
    recalled = model.memory(batch.nodes, batch.seconds)
    h = recalled.row + model.node(batch.node_feature)
    below, reused = batch.levels[1], batch.reuse[0]
    h = torch.relu(layer(model, 0, h, h, batch, below))
    pulled = [] if not model.reuse.stores else [model.reuse.stores[0].values[reused.pull_slot]]
    z = layer(model, 1, h, torch.cat([h.detach(), *pulled]), batch, batch.levels[0])
    return model.decoder(z, batch.src_row, batch.candidate_row)


def layer(model, depth, own, past, batch, level):
    out = model.attention[depth](own, level.self_row, batch.event_feature, places_of(level, batch.seconds), past)
    return out + model.skip[depth](take(own, level.self_row))


def test_blocking_gives_the_gradients_of_neighbours_detached_by_hand(log):
    model = model_of("tgn", 2)
    for batch in pipeline(log, 2, EmbeddingReuse(rows=9)):
        grads = []
        for score in (model.score, lambda batch: by_hand(model, batch)):
            model.zero_grad()
            score(batch).sigmoid().sum().backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        model.score(batch)
        model.observe(batch)
    assert not model.reuse.stores[0].values.requires_grad


def test_the_three_gradients_differ_and_all_score_alike(log):
    norms, scores = {}, {}
    for gradient in ("block", "share", "clip"):
        model = model_of("tgn", 2)
        batch = next(iter(pipeline(log, 2, EmbeddingReuse(gradient=gradient))))
        scores[gradient] = model.score(batch)
        (1e3 * scores[gradient]).sum().backward()
        norms[gradient] = float(model.memory.input.grad.norm() + model.skip[0].weight.grad.norm())
    assert torch.equal(scores["block"], scores["share"])
    assert torch.equal(scores["block"], scores["clip"])
    assert len(set(norms.values())) == 3


def test_what_is_shared_and_clipped_passes_back_norm_one_at_most():
    h = torch.ones(3, 2, requires_grad=True)
    (_clipped(h) * 5).sum().backward()
    assert h.grad.norm() == pytest.approx(1.0)


def perturbed(position, seed=3):
    """Return the log with partners and features changed from an event on; times and destinations' set stay."""
    src, dst, time, features = (column.copy() for column in events())
    random = np.random.default_rng(seed)
    dst[position:] = random.permutation(dst[position:])
    features[position:] += 1
    return log_of(src, dst, time, features)


def logits_before(log, position, reuse):
    model, found = model_of("tgn", 2), []
    for batch in pipeline(log, 2, reuse):
        with torch.no_grad():
            earlier = batch.time < int(events()[2][position])
            found.append(model.score(batch)[earlier])
            model.observe(batch)
    return torch.cat(found)


@pytest.mark.parametrize("position", [67, 130, 151])
@pytest.mark.parametrize(
    "reuse", [EmbeddingReuse(), EmbeddingReuse(rows=6, policy="lru"), EmbeddingReuse(policy="lru", max_age=2)], ids=str
)
def test_no_event_changes_the_score_of_an_earlier_target(log, position, reuse):
    here, there = (logits_before(one, position, reuse) for one in (log, perturbed(position)))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-6)


def test_the_papers_sharing_lets_events_change_scores_of_earlier_targets(log):
    leaks = 0
    for position in (67, 130, 151):
        reuse = EmbeddingReuse(causal=False)
        here, there = (logits_before(one, position, reuse) for one in (log, perturbed(position)))
        leaks += float((here - there).abs().max()) > 1e-4
    assert leaks


@pytest.mark.parametrize("kind", ["tgn", "tgat"])
def test_a_run_cut_off_in_an_epoch_goes_on_with_the_same_bits(log, kind):
    def start():
        model = model_of(kind, 3)
        batches = pipeline(log, 3, EmbeddingReuse(rows=6), prefetch=2)
        return model, batches, torch.optim.Adam(model.parameters(), lr=1e-2)

    model, batches, optimizer = start()
    wanted, _ = train(model, batches.epoch(1), optimizer)
    model, batches, optimizer = start()
    walk = batches.epoch(1)
    losses, _ = train(model, islice(walk, 5), optimizer)
    writer = StateWriter()
    batches.save(writer.child("pipeline"))
    save_model(model, writer.child("model"))
    save_optimizer(optimizer, writer.child("optimizer"))
    walk.close()
    model, batches, optimizer = start()
    reader = StateReader(writer.tensors, writer.values)
    batches.load(reader.child("pipeline"))
    load_model(model, reader.child("model"))
    load_optimizer(optimizer, reader.child("optimizer"))
    rest, _ = train(model, batches.epoch(1), optimizer)
    assert losses + rest == wanted


@pytest.mark.parametrize("kind", ["tgn", "tgat"])
def test_a_snapshot_is_deep_and_brings_kept_embeddings_back(log, kind):
    model = model_of(kind, 2)
    walk = pipeline(log, 2, EmbeddingReuse(rows=9)).epoch(0)
    train(model, islice(walk, 4))
    state = model.snapshot()
    batch = next(walk)
    wanted = model.score(batch)
    model.observe(batch)
    train(model, walk)
    model.restore(state)
    assert torch.equal(model.score(batch), wanted)
    model.forget()
    assert not model.reuse.stores


def test_a_batch_out_of_order_is_refused(log):
    model = model_of("tgn", 2)
    late = list(pipeline(log, 2, EmbeddingReuse()))[-1]
    assert len(late.reuse[0].pull_slot)
    with pytest.raises(CheckpointError, match="in order"):
        train(model, [next(iter(pipeline(log, 2, EmbeddingReuse()))), late])


def test_exact_batches_are_scored_as_if_nothing_were_kept(log):
    model = model_of("tgn", 2)
    train(model, pipeline(log, 2, EmbeddingReuse()))
    exact = list(pipeline(log, 2))[-1]
    assert model.reuse.stores
    scores = model.score(exact)
    model.reuse.forget()
    assert torch.equal(model.score(exact), scores)


class Sums:
    """A model of known constants: `h = c (own + s sum of neighbours)`, over a state that drifts."""

    combine, aggregate = 0.8, 0.3

    def __init__(self, log, seed):
        self.log, self.random = log, np.random.default_rng(seed)
        self.state = torch.from_numpy(self.random.standard_normal((NODES, 5)))
        self.reuse = RowReuse()

    def drift(self):
        self.state = self.state + 0.1 * torch.from_numpy(self.random.standard_normal(self.state.shape))

    def layers(self, batch):
        """Return the rows that each level's neighbours read, the last level's first, and the result."""
        h, read = self.state[batch.nodes], []
        self.reuse.begin(batch)
        for depth in reversed(range(len(batch.levels))):
            level = batch.levels[depth]
            below = self.reuse.below(batch, depth, h)
            read.append(below)
            past = (below[level.neighbor_row] * level.hood.mask[..., None]).sum(1)
            h = self.combine * (h[level.self_row] + self.aggregate * past)
        return read, h

    def exact(self, depth, node, before, known):
        """Return one embedding of one node by recursion."""
        if depth == 0:
            return self.state[node]
        if (depth, node, before) not in known:
            index = self.log.index
            begin, end = index.indptr[node], index.indptr[node + 1]
            seen = begin + np.searchsorted(index.event[begin:end], before, side="left")
            own = self.exact(depth - 1, node, before, known)
            past = index.neighbor[max(begin, seen - K) : seen]
            total = sum((self.exact(depth - 1, int(v), before, known) for v in past), torch.zeros(5).double())
            known[depth, node, before] = self.combine * (own + self.aggregate * total)
        return known[depth, node, before]

    def bound(self, errors):
        """Return Theorem 5's bound from the largest error of what was read at each layer, from layer 1 up."""
        one, two = self.combine, self.aggregate
        depth = len(errors) + 1
        return sum(
            K * (1 + K * two) ** (depth - below - 1) * one ** (depth - below) * two * error
            for below, error in enumerate(errors, start=1)
        )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("hops", [2, 3])
@pytest.mark.parametrize("options", [{"rows": 8}, {"rows": 8, "policy": "lru"}, {"causal": False}], ids=str)
def test_the_error_of_an_output_stays_within_theorem_fives_bound(hops, options, seed):
    log = log_of(*events(seed=seed))
    model, worst = Sums(log, seed), 0.0
    for batch in pipeline(log, hops, EmbeddingReuse(**options)):
        read, out = model.layers(batch)
        known, errors = {}, []
        for layer_number in range(1, hops):
            level, rows = batch.levels[hops - 1 - layer_number], read[layer_number]
            off = [0.0]
            for i, j in level.hood.mask.nonzero().tolist():
                wanted = model.exact(layer_number, int(level.hood.node[i, j]), int(level.before[i]), known)
                off.append(float((rows[level.neighbor_row[i, j]] - wanted).norm()))
            errors.append(max(off))
        level = batch.levels[0]
        exact = [model.exact(hops, int(v), int(b), known) for v, b in zip(level.node, level.before, strict=True)]
        error = float((out - torch.stack(exact)).norm(dim=1).max())
        assert error <= model.bound(errors) + 1e-9
        worst = max(worst, error)
        model.reuse.commit()
        model.drift()
    assert worst > 0


def test_layers_of_other_widths_and_precision_have_stores_of_their_own(log):
    reuse, batches = RowReuse(), list(islice(pipeline(log, 3, EmbeddingReuse(rows=6, policy="lru")), 3))

    def pass_through(batch, widths, dtype):
        reuse.begin(batch)
        for depth in (1, 0):
            rows = len(batch.levels_of()[depth + 1].node)
            reuse.below(batch, depth, torch.full((rows, widths[depth]), depth + 1.0, dtype=dtype))
        reuse.commit()

    for widths, dtype in (((8, 5), torch.float32), ((8, 5), torch.float64), ((4, 8), torch.float32)):
        for batch in batches:
            pass_through(batch, widths, dtype)
        assert [store.values.shape[1] for store in reuse.stores] == list(widths)
        assert {store.values.dtype for store in reuse.stores} == {dtype}
        assert all((store.values[store.node >= 0] == i + 1).all() for i, store in enumerate(reuse.stores))
