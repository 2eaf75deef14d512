"""Zebra: what it sees, what it refuses, what dropout and another sampler do, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate import check_leak, evaluation_for, p1, split_for
from stepwell.nn.registry import models
from stepwell.nn.zebra import Zebra, ZebraSettings
from stepwell.storage import EventLog
from stepwell.train import link_loss


def log_of(num: int = 120, event_dim: int = 3, num_nodes: int = 9, seed: int = 0) -> EventLog:
    draw = np.random.default_rng(seed)
    src, dst = draw.integers(0, num_nodes, (2, num))
    features = draw.normal(size=(num, event_dim)) if event_dim else None
    return EventLog.from_arrays(src, dst, np.sort(draw.integers(0, 90, num)), features=features, num_nodes=num_nodes)


def model_of(dropout: float = 0.0, **settings: object) -> Zebra:
    torch.manual_seed(7)
    wanted = ZebraSettings(memory_dim=8, time_dim=6, dim=8, k=3, dropout=dropout, **settings)  # type: ignore[arg-type]
    return Zebra(9, 3, 0, wanted)


def batches(log: EventLog, model: Zebra, size: int = 20, **options: object) -> Pipeline:
    sampler = model.settings.sampler
    return Pipeline(log, FixedBatches(size), negatives=UniformNegatives(2), sampler=sampler, prefetch=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_of", ["event", "batch"])
def test_no_score_depends_on_the_future(as_of):
    model = model_of().eval()
    found = check_leak(model, log_of(), lambda log: batches(log, model, as_of=as_of))
    assert found.num_compared > 0


def test_the_metrics_decide_the_sampler_and_the_width():
    model = model_of(alpha=(0.1, 0.2, 0.3), beta=(0.5, 0.6, 0.7))
    assert str(model.settings.sampler) == "TPPR(k=9, alpha=(0.1, 0.2, 0.3), beta=(0.5, 0.6, 0.7))"
    batch = next(iter(batches(log_of(), model)))
    assert model.embed(batch).shape[1] == 4 * 8
    assert (model.k, model.hops, model.keyed_by) == (9, 1, "node_time")
    assert models["zebra"] is Zebra


def test_a_target_without_a_past_is_its_own_state_beside_zeros():
    model = model_of().eval()
    batch = next(iter(batches(log_of(), model)))
    lone = ~torch.as_tensor(np.asarray(batch.levels_of()[0].hood.mask)).any(1)
    assert lone.any()
    embedded = model.embed(batch)[lone]
    assert not embedded[:, 8:].any()
    assert torch.equal(embedded[:, :8], embedded[:1, :8].expand_as(embedded[:, :8]))


def test_weights_of_the_list_decide_and_only_their_ratio():
    model = model_of().eval()
    batch = list(batches(log_of(), model))[-1]
    level = batch.levels_of()[0]
    scores = model.score(batch)

    def with_weight(weight):
        return batch.give(levels=(replace(level, hood=replace(level.hood, weight=weight)),))

    torch.testing.assert_close(model.score(with_weight(level.hood.weight * 8)), scores)
    assert not torch.allclose(model.score(with_weight(None)), scores)


def test_dropout_changes_training_only():
    model, log = model_of(dropout=0.5), log_of()
    batch = list(batches(log, model))[-1]
    model.train()
    assert not torch.equal(model.score(batch), model.score(batch))
    model.eval()
    assert torch.equal(model.score(batch), model.score(batch))


def test_observing_writes_what_the_forward_pass_had_and_a_restore_brings_back_the_bits():
    model, log = model_of().eval(), log_of()
    stream = list(batches(log, model))
    for batch in stream[:3]:
        model.score(batch)
        model.observe(batch)
    state, scores = model.snapshot(), model.score(stream[3])
    for batch in stream[3:]:
        model.score(batch)
        model.observe(batch)
    assert not torch.equal(model.score(stream[3]), scores)
    model.restore(state)
    assert torch.equal(model.score(stream[3]), scores)
    model.forget()
    assert not model.memory.memory.any()


def test_zebra_learns_that_what_was_just_met_is_met_again():
    draw = np.random.default_rng(0)
    log = EventLog.from_arrays(
        draw.integers(0, 20, 1500), 20 + (np.arange(1500) // 40) % 20, np.arange(1500), num_nodes=40
    )
    torch.manual_seed(0)
    model = Zebra(40, 0, 0, ZebraSettings(memory_dim=16, time_dim=8, dim=16, k=4))
    pipeline = Pipeline(log, FixedBatches(50), negatives=UniformNegatives(1), sampler=model.settings.sampler)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for epoch in range(4):
        model.forget()
        losses.append(0.0)
        for batch in pipeline.epoch(epoch):
            optimizer.zero_grad()
            loss = link_loss(model, batch)
            loss.backward()
            with torch.no_grad():
                model.observe(batch)
            optimizer.step()
            losses[-1] += loss.item() / 30
    assert losses[-1] < 0.5 * 2 * np.log(2), losses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": (0.1,), "beta": (0.5, 0.9)}, "as long as `alpha`"),
        ({"dropout": 1.0}, "`dropout` must be"),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, message):
    with pytest.raises(InvalidValueError, match=message):
        ZebraSettings(**settings)


def test_a_sampler_whose_places_the_lists_cannot_share_is_refused():
    model = model_of()
    batch = next(iter(Pipeline(log_of(), FixedBatches(20), negatives=UniformNegatives(1), sampler=Recent(5))))
    with pytest.raises(InvalidValueError, match="a multiple of the number of lists, 2"):
        model.score(batch)


def test_evaluating_transductively_first_does_not_change_the_inductive_numbers():
    log, protocol = log_of(400, 0, 60), p1(events="inductive")
    split = split_for(log, protocol)
    torch.manual_seed(0)
    model = Zebra(60, 0, 0, ZebraSettings(memory_dim=8, time_dim=6, dim=8, k=3)).eval()
    sampler = model.settings.sampler
    first = evaluation_for(protocol, split, sampler=sampler)(model)
    model.forget()
    evaluation_for(p1(), split, sampler=sampler)(model)
    model.forget()
    again = evaluation_for(protocol, split, sampler=sampler)(model)
    assert first["ap"].value == again["ap"].value
    assert first.num_scores == again.num_scores > 0
