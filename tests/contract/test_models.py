"""Every model keeps the rules: no look into the future, no hidden state, the same bits after a restore."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.state import StateReader, StateWriter
from stepwell.evaluate import Evaluation, check_leak, p1
from stepwell.nn import EdgeBank, MostRecent, PopTrack, models
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig, load_model, save_model

LEARNT = sorted(models)
BASELINES = {
    "edgebank": EdgeBank,
    "edgebank-window": lambda: EdgeBank(20),
    "most-recent": MostRecent,
    "poptrack": PopTrack,
}
FEATURES = {"no features": (0, 0), "event features": (3, 0), "node features": (0, 2), "both": (3, 2)}


def log_of(num=100, event_dim=3, node_dim=2, seed=0):
    draw = np.random.default_rng(seed)
    src, dst = draw.integers(0, 9, num), draw.integers(0, 9, num)
    return EventLog.from_arrays(
        src,
        dst,
        np.sort(draw.integers(0, 90, num)),
        features=draw.normal(size=(num, event_dim)) if event_dim else None,
        node_features=draw.normal(size=(9, node_dim)) if node_dim else None,
        num_nodes=9,
    )


def build(name, event_dim=3, node_dim=2):
    if name in BASELINES:
        return BASELINES[name]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = models[name](9, event_dim, node_dim)
        for parameter in model.parameters():  # nothing may hide behind a weight that starts at zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pipeline_of(model, log, *, as_of="event", size=20):
    k = getattr(model, "k", None)
    return Pipeline(
        log,
        FixedBatches(size),
        negatives=UniformNegatives(2),
        sampler=None if k is None else Recent(k),
        hops=getattr(model, "hops", 1),
        as_of=as_of,
        keyed_by=getattr(model, "keyed_by", "node_time"),
        prefetch=0,
    )


def scores_of(model, batches):
    found = []
    with torch.no_grad():
        for batch in batches:
            found.append(model.score(batch))
            model.observe(batch)
    return torch.cat(found)


@pytest.mark.parametrize("as_of", ["event", "batch"])
@pytest.mark.parametrize("name", [*LEARNT, *BASELINES])
def test_no_score_depends_on_what_had_not_happened_yet(name, as_of):
    check = check_leak(build(name), log_of(), lambda log: pipeline_of(build(name), log, as_of=as_of), num_cuts=2)
    assert check.num_compared > 200


@pytest.mark.parametrize("name", [*LEARNT, *BASELINES])
def test_scoring_twice_gives_the_same_bits_and_changes_no_state(name):
    model = build(name)
    for batch in pipeline_of(model, log_of()):
        with torch.no_grad():
            assert torch.equal(model.score(batch), model.score(batch))
            model.observe(batch)


@pytest.mark.parametrize("name", [*LEARNT, *BASELINES])
def test_a_forgetful_model_answers_as_a_new_one(name):
    model, log = build(name), log_of()
    first = scores_of(model, pipeline_of(model, log))
    model.forget()
    assert torch.equal(scores_of(model, pipeline_of(model, log)), first)


@pytest.mark.parametrize("name", [*LEARNT, *BASELINES])
def test_a_restored_model_continues_with_the_same_bits(name):
    model, log = build(name), log_of()
    batches = list(pipeline_of(model, log))
    scores_of(model, batches[:3])
    writer = StateWriter()
    save_model(model, writer)
    expected = scores_of(model, batches[3:])
    fresh = build(name)
    load_model(fresh, StateReader(writer.tensors, writer.values))
    assert torch.equal(scores_of(fresh, batches[3:]), expected)
    load_model(model, StateReader(writer.tensors, writer.values))
    assert torch.equal(scores_of(model, batches[3:]), expected)


@pytest.mark.parametrize("dims", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("name", LEARNT)
def test_every_model_learns_with_any_features(name, dims):
    log = log_of(150, *dims)
    split = log.split()
    model = build(name, *dims)
    loop = Loop(
        model,
        pipeline_of(model, split.train),
        LoopConfig(epochs=1, learning_rate=0.01),
        Evaluation(pipeline_of(model, split.validation), p1("validation")),
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = loop.fit()
    assert 0 <= result.best.scores["ap"] <= 1
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2
