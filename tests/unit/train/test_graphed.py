"""Graphed steps compute what eager ones do; without a device all is eager, and the log says why."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

NODES, WIDTH = 40, 6


def log_of(num):
    draw = np.random.default_rng(0)
    src, dst = draw.integers(0, 20, num), draw.integers(20, NODES, num)
    features = draw.standard_normal((num, WIDTH), dtype=np.float32)
    return EventLog.from_arrays(src, dst, np.arange(num) * 7, features=features, num_nodes=NODES)


def batches_of(device, num=600, size=30):
    stages = {"negatives": UniformNegatives(2), "sampler": Recent(4), "device": device}
    return Pipeline(log_of(num), FixedBatches(size), **stages)


def model_of(name, dropout=0.0):
    torch.manual_seed(0)
    shape = {"dim": 8, "time_dim": 6, "k": 4, "dropout": dropout}
    if name == "tgat":
        return TGAT(NODES, WIDTH, 0, TGATSettings(hops=1, **shape))
    return TGN(NODES, WIDTH, 0, TGNSettings(memory_dim=7, **shape))


class Losses:
    def __init__(self):
        self.found = []

    def on_batch(self, state, batch):
        self.found.append(state.step)

    def on_epoch(self, state, epoch):
        self.found.append(epoch.loss)


def trained(name, device, num=600, **settings):
    model, heard = model_of(name).to(device), Losses()
    loop = Loop(model, batches_of(device, num), LoopConfig(epochs=2, learning_rate=1e-3, **settings))
    loop.fit(callbacks=[heard])
    return model, heard.found, loop


def test_without_a_device_a_graphed_run_has_the_bits_of_an_eager_one_and_says_why(caplog):
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        graphed, losses, _ = trained("tgn", "cpu", 120, graphed=True)
    eager, expected, _ = trained("tgn", "cpu", 120)

    assert losses == expected
    pairs = zip(graphed.state_dict().values(), eager.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert ["not on a CUDA device" in record.message for record in caplog.records] == [True]


def test_a_run_may_be_continued_graphed_or_not(tmp_path):
    def loop_of(epochs, *, graphed):
        config = LoopConfig(epochs=epochs, graphed=graphed)
        return Loop(model_of("tgat"), batches_of("cpu", 90), config, folder=tmp_path)

    loop_of(1, graphed=False).fit()
    assert len(loop_of(2, graphed=True).fit(resume=True).history) == 2


def test_a_checkpoint_of_a_graphed_run_continues_where_there_is_no_device(tmp_path):
    def loop_of(epochs):
        return Loop(model_of("tgat"), batches_of("cpu", 90), LoopConfig(epochs=epochs), folder=tmp_path)

    loop = loop_of(1)
    loop.fit()
    loop._optimizer.param_groups[0]["capturable"] = True  # as Adam is where steps are recorded
    loop._save()
    resumed = loop_of(2)

    assert len(resumed.fit(resume=True).history) == 2
    assert not resumed._optimizer.param_groups[0]["capturable"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tgat", "tgn"])
def test_graphed_training_ends_near_where_eager_training_ends(name):
    eager, expected, _ = trained(name, "cuda")
    graphed, losses, loop = trained(name, "cuda", graphed=True)

    assert loop._graphed.reason == ""
    assert any(recorded.graph for recorded in loop._graphed._recorded.values())
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    for one, two in zip(graphed.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_a_replayed_step_draws_new_dropout_each_time():
    model = model_of("tgat", dropout=0.5).to("cuda").train()
    loop = Loop(model, batches_of("cuda"), LoopConfig(graphed=True, learning_rate=1e-12))
    batch = list(batches_of("cuda"))[-1]
    found = {float(loop._graphed(batch)) for _ in range(10)}

    assert loop._graphed.reason == ""
    assert len(found) > 5


@pytest.mark.gpu
def test_a_model_that_waits_for_the_device_is_trained_eagerly_and_the_log_says_so(caplog):
    class Waiting(TGAT):
        def observe(self, batch):
            self.seen = float(batch.tensor("time").max())

    torch.manual_seed(0)
    model = Waiting(NODES, WIDTH, 0, TGATSettings(dim=8, time_dim=6, k=4, hops=1)).to("cuda")
    loop = Loop(model, batches_of("cuda", 120), LoopConfig(epochs=1, graphed=True))
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        loop.fit()

    assert "waits for the device" in loop._graphed.reason
    assert loop._graphed.reason in caplog.text


@pytest.mark.gpu
def test_a_model_that_replaces_its_tensors_is_trained_eagerly():
    class Replacing(TGAT):
        def observe(self, batch):
            self.count = self.count + 1

    torch.manual_seed(0)
    model = Replacing(NODES, WIDTH, 0, TGATSettings(dim=8, time_dim=6, k=4, hops=1))
    model.register_buffer("count", torch.zeros(()))
    model.to("cuda")
    loop = Loop(model, batches_of("cuda"), LoopConfig(epochs=1, graphed=True))
    loop.fit()

    assert "replaces its tensors" in loop._graphed.reason
    assert float(model.count) == 20


@pytest.mark.gpu
def test_batches_that_cannot_be_padded_are_left_to_the_caller():
    loop = Loop(model_of("tgat").to("cuda"), batches_of("cuda"), LoopConfig(graphed=True))

    assert loop._graphed(next(iter(batches_of("cuda"))).give(note=object())) is None
    assert "batch field note" in loop._graphed.reason
