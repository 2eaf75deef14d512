"""The loop: order of its steps, early stopping, best state, divergence, and what it leaves alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from stepwell.access import FixedBatches, Pipeline, UniformNegatives
from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.core.state import read_state
from stepwell.evaluate import Evaluation, p1
from stepwell.nn.baselines import EdgeBank
from stepwell.storage import EventLog
from stepwell.train import DivergedError, Loop, LoopConfig, link_loss


class Toy(nn.Module):
    """A memory of one row a node with dropout: small, stateful and random, as a real model is."""

    def __init__(self, num_nodes=16, dim=4, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.node = nn.Embedding(num_nodes, dim)
            self.mix = nn.Linear(2 * dim, dim)
        self.drop = nn.Dropout(0.2)
        self.register_buffer("memory", torch.zeros(num_nodes, dim))
        self.calls = []

    def score(self, batch):
        self.calls.append("score")
        table = torch.cat([self.node.weight, self.memory], dim=1)
        h = self.drop(self.mix(table))
        return (h[batch.tensor("src")][:, None] * h[batch.tensor("candidate")]).sum(-1)

    def observe(self, batch):
        self.calls.append("observe")
        assert not torch.is_grad_enabled()
        ends = torch.cat([batch.tensor("src"), batch.tensor("dst")])
        self.memory[ends] = 0.5 * self.memory[ends] + self.node.weight[ends]

    def forget(self):
        self.calls.append("forget")
        self.memory.zero_()


def log_of(num=300):
    draw = np.random.default_rng(1)
    src = draw.integers(0, 8, num)
    return EventLog.from_arrays(src, 8 + (src + draw.integers(0, 2, num)) % 8, np.arange(num))


def pipelines(size=50):
    split = log_of().split()
    train = Pipeline(split.train, FixedBatches(size), negatives=UniformNegatives(2), seed=3)
    validation = Pipeline(split.validation, FixedBatches(size), negatives=UniformNegatives(1), seed=4)
    test = Pipeline(split.test, FixedBatches(size), negatives=UniformNegatives(1), seed=5)
    return train, Evaluation(validation, p1("validation")), Evaluation(test, p1("test"))


def test_training_lowers_the_loss_and_keeps_the_history():
    train, validation, test = pipelines()
    loop = Loop(Toy(), train, LoopConfig(epochs=12, learning_rate=0.02, patience=None), validation)
    result = loop.fit()
    assert len(result.history) == 12
    assert result.history[-1].loss < 0.9 * result.history[0].loss
    assert set(result.best.scores) == {"ap", "auc", "ap/batches", "auc/batches"}
    assert result.best.scores["ap"] == max(epoch.scores["ap"] for epoch in result.history)
    report = loop.test(test)
    assert loop.result().test == (report,)
    assert "P1" in str(loop.result())
    assert result.history[0].num_events == 210 and result.history[0].events_per_s > 0


def test_each_epoch_forgets_and_each_batch_is_scored_then_observed():
    train, _, _ = pipelines(size=100)
    model = Toy()
    Loop(model, train, LoopConfig(epochs=2)).fit()
    assert model.calls == ["forget", *["score", "observe"] * 3] * 2


def test_the_model_observes_with_the_parameters_that_scored():
    train, _, _ = pipelines(size=210)
    model = Toy()
    weight = model.node.weight.detach().clone()
    Loop(model, train, LoopConfig(epochs=1, learning_rate=0.5)).fit()
    moved = model.memory.abs().sum(1) > 0
    assert torch.equal(model.memory[moved], weight[moved])
    assert not torch.equal(model.node.weight[moved], weight[moved])


def test_tests_start_from_the_best_state_each_time():
    train, validation, test = pipelines()
    loop = Loop(Toy(), train, LoopConfig(epochs=3, learning_rate=0.02), validation)
    loop.fit()
    assert loop.test(test).scores == loop.test(test).scores


def test_a_run_without_a_better_score_ends_and_returns_its_best_state():
    train, validation, _ = pipelines()
    model = Toy()
    config = LoopConfig(epochs=50, learning_rate=1e-4, patience=2, tolerance=1.0)
    result = Loop(model, train, config, validation).fit()
    assert len(result.history) == 3
    assert result.best.epoch == 0


def test_a_folder_keeps_the_best_and_the_last_state(tmp_path):
    train, validation, _ = pipelines()
    model = Toy()
    result = Loop(model, train, LoopConfig(epochs=2), validation, tmp_path / "run").fit()
    assert result.checkpoint == tmp_path / "run" / "best"
    saved = read_state(result.checkpoint).child("model").child("module").tensors()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best", "last"}


def test_a_finished_run_can_be_prolonged_with_the_same_bits(tmp_path):
    def run(folder, *epochs):
        for number in epochs:
            train, validation, _ = pipelines()
            model = Toy()
            config = LoopConfig(epochs=number, learning_rate=0.01, patience=None)
            history = Loop(model, train, config, validation, folder).fit(resume=True).history
        return history, read_state(folder / "last").child("model").tensors()

    (one, state_one), (two, state_two) = run(tmp_path / "one", 4), run(tmp_path / "two", 2, 4)
    assert [(e.loss, dict(e.scores)) for e in one] == [(e.loss, dict(e.scores)) for e in two]
    assert all(torch.equal(state_one[name], state_two[name]) for name in state_one)


def test_a_checkpoint_of_other_settings_or_another_model_is_refused(tmp_path):
    train, validation, _ = pipelines()
    Loop(Toy(), train, LoopConfig(epochs=1), validation, tmp_path).fit()
    with pytest.raises(CheckpointError, match=r"learning_rate: 0.0001, now 0.5"):
        Loop(Toy(), train, LoopConfig(epochs=2, learning_rate=0.5), validation, tmp_path).fit(resume=True)
    with pytest.raises(CheckpointError, match="does not fit Toy"):
        Loop(Toy(dim=5), train, LoopConfig(epochs=2), validation, tmp_path).fit(resume=True)


def test_a_loss_that_is_no_number_names_epoch_and_batch():
    train, _, _ = pipelines(size=50)

    def objective(model, batch):
        loss = link_loss(model, batch)
        return loss * float("nan") if batch.slice.epoch == 1 and batch.slice.index == 2 else loss

    with pytest.raises(DivergedError, match="The loss is nan at epoch 2, batch 3"):
        Loop(Toy(), train, LoopConfig(epochs=3), objective=objective).fit()


def test_callbacks_hear_of_every_batch_and_epoch():
    train, validation, _ = pipelines(size=100)
    heard = []

    class Listener:
        def on_batch(self, state, batch):
            heard.append((state.epoch, state.batch, len(batch)))

        def on_epoch(self, state, epoch):
            heard.append(epoch.epoch)

    Loop(Toy(), train, LoopConfig(epochs=2), validation).fit(callbacks=[Listener()])
    assert heard == [(0, 1, 100), (0, 2, 100), (0, 3, 10), 0, (1, 1, 100), (1, 2, 100), (1, 3, 10), 1]


def test_the_callers_generators_are_left_as_they_were_and_do_not_matter():
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
        train, _, _ = pipelines()
        losses.append(Loop(Toy(), train, LoopConfig(epochs=1)).fit().history[0].loss)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        assert random.getstate() == before[2]
    assert losses[0] == losses[1]


def test_gradients_are_clipped_to_the_norm_asked_for():
    train, _, _ = pipelines(size=210)
    model = Toy()
    Loop(model, train, LoopConfig(epochs=1, clip=1e-3)).fit()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_padding_has_no_part_in_the_loss():
    train, _, _ = pipelines(size=20)
    batch = next(iter(train))
    model = Toy().eval()
    candidate = batch.tensor("candidate")
    padded = torch.cat([candidate, torch.zeros_like(candidate[:, :1])], dim=1)
    worse = link_loss(model, batch.give(candidate=padded))
    masked = _Masked(model)
    padded[:, -1] = -1
    ignored = link_loss(masked, batch.give(candidate=padded))
    assert ignored.item() == pytest.approx(link_loss(model, batch).item())
    assert worse != link_loss(model, batch)


class _Masked:
    def __init__(self, model):
        self.model = model

    def score(self, batch):
        return self.model.score(batch.give(candidate=batch.tensor("candidate").clamp(min=0)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: LoopConfig(epochs=0),
        lambda: LoopConfig(learning_rate=0.0),
        lambda: LoopConfig(clip=0.0),
        lambda: LoopConfig(patience=0),
        lambda: LoopConfig(weight_decay=-1.0),
        lambda: LoopConfig(save_every=0),
        lambda: LoopConfig(pooling="both"),
        lambda: Loop(EdgeBank(), pipelines()[0]),
        lambda: Loop(nn.ReLU(), pipelines()[0]),
        lambda: Loop(Toy(), pipelines()[0]).fit(resume=True),
        lambda: Loop(Toy(), pipelines()[0], LoopConfig(monitor="accuracy"), pipelines()[1]).fit(),
    ],
)
def test_what_cannot_be_trained_is_refused(call):
    with pytest.raises(InvalidValueError):
        call()


def test_there_is_no_result_before_an_epoch():
    loop = Loop(Toy(), pipelines()[0])
    with pytest.raises(CheckpointError, match="Call fit"):
        loop.result()
    with pytest.raises(CheckpointError, match="Call fit"):
        loop.restore()


def test_a_loop_is_fitted_once():
    loop = Loop(Toy(), pipelines()[0], LoopConfig(epochs=1))
    loop.fit()
    with pytest.raises(InvalidValueError, match="called once"):
        loop.fit()
