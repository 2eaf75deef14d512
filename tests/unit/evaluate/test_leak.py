"""The leak check: passes what is causal, catches what is not, and names the query."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, UniformNegatives
from stepwell.core.errors import InvalidValueError, LeakError
from stepwell.evaluate import check_leak
from stepwell.nn.baselines import EdgeBank, MostRecent, PopTrack
from stepwell.storage import EventLog


def log_of(num=200):
    draw = np.random.default_rng(5)
    src, dst = draw.integers(0, 8, num), draw.integers(8, 16, num)
    time = np.sort(draw.integers(0, 150, num))
    return EventLog.from_arrays(src, dst, time, features=draw.normal(size=(num, 2)), label=draw.integers(0, 2, num))


def batches(log):
    return Pipeline(log, FixedBatches(20), negatives=UniformNegatives(3), prefetch=0)


@pytest.mark.parametrize("model", [EdgeBank(), MostRecent(), PopTrack(0.9)], ids=repr)
def test_models_of_the_past_pass(model):
    check = check_leak(model, log_of(), batches)
    assert check.num_compared > 500
    assert len(check.changes) == 5


class Cheat(EdgeBank):
    """Peeks at its own batch in one way or another."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def score(self, batch):
        if self.way == "own batch":
            self.observe(batch)
        scores = super().score(batch)
        if self.way == "own feature":
            scores = scores + 1e-3 * batch.tensor("own_feature")[:, :1]
        if self.way == "own label":
            scores = scores + 1e-3 * batch.tensor("label")[:, None]
        if self.way == "mean of batch":
            scores = scores + 1e-3 * batch.tensor("dst").double().mean()
        if self.way == "batch time":
            scores = scores + 1e-3 * batch.tensor("time").max()
        return scores


@pytest.mark.parametrize("way", ["own batch", "own feature", "own label", "mean of batch", "batch time"])
def test_models_that_peek_are_caught(way):
    with pytest.raises(LeakError, match=r"The score of event \d+ \(source \d+, candidate \d+"):
        check_leak(Cheat(way), log_of(), batches, num_cuts=8)


class Clairvoyant:
    """A stage outside the model that leaks: it counts a node's events in the whole log."""

    def score(self, batch):
        return batch.tensor("count").double()

    def observe(self, batch):
        pass

    def forget(self):
        pass


def test_a_pipeline_that_looks_ahead_is_caught_too():
    def counted(log):
        total = np.bincount(log.snapshot.dst, minlength=log.num_nodes)
        for batch in batches(log):
            yield batch.give(count=torch.from_numpy(total[batch.array("candidate")]))

    with pytest.raises(LeakError, match="no later events"):
        check_leak(Clairvoyant(), log_of(), counted)


def test_the_model_itself_is_left_alone():
    model = MostRecent()
    batch = next(iter(batches(log_of())))
    model.observe(batch)
    before = model.score(batch)
    check_leak(model, log_of(), batches, num_cuts=1)
    assert torch.equal(model.score(batch), before)


def test_a_log_too_short_is_refused():
    with pytest.raises(InvalidValueError, match="at least 4"):
        check_leak(EdgeBank(), log_of()[:3])
