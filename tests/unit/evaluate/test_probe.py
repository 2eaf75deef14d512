"""The probe: finds labels that embeddings know, and no others; keeps the order of embedding and observing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.core.batch import Slice
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate import Probe, p1
from stepwell.storage import EventLog


class Counter:
    """Embeds a node as the parity of its past events, which is the label in the log below."""

    def __init__(self, num_nodes, noise=0.0):
        self.count = torch.zeros(num_nodes)
        self.noise = noise
        self.calls = []

    def embed(self, batch):
        self.calls.append("embed")
        rows = self.count[batch.tensor("src")] % 2
        return torch.stack([rows * (1 - self.noise), torch.rand(len(rows))], dim=1)

    def observe(self, batch):
        self.calls.append("observe")
        self.count.index_add_(0, batch.tensor("src"), torch.ones(len(batch)))

    def forget(self):
        self.calls.append("forget")
        self.count.zero_()


def parts_of(num=600):
    draw = np.random.default_rng(0)
    src = draw.integers(0, 20, num)
    past = [int((src[:i] == node).sum()) for i, node in enumerate(src)]
    label = np.array(past) % 2
    log = EventLog.from_arrays(src, draw.integers(20, 30, num), np.arange(num), label=label)
    return [
        [part.read(Slice(0, i, i, i + 1)).give(src_row=torch.tensor([0])) for i in range(len(part))]
        for part in log.split()
    ]


def test_the_probe_finds_what_embeddings_know():
    auc, ap = Probe(epochs=30, learning_rate=0.01)(Counter(30), *parts_of(), p1())
    assert auc.name == "auc" and auc.value > 0.95
    assert ap.value > 0.8
    blind, _ = Probe(epochs=5)(Counter(30, noise=1.0), *parts_of(), p1())
    assert 0.25 < blind.value < 0.75


def test_the_same_seed_gives_the_same_scores_and_leaves_the_callers_generator_alone():
    parts = parts_of()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(Probe(epochs=2)(Counter(30), *parts, p1()))
        after = torch.rand(1)
        torch.manual_seed(3)
        torch.rand(600)  # what the model itself drew, one a batch
        assert after == torch.rand(1)
    assert found[0] == found[1]


def test_every_event_is_embedded_before_it_is_observed():
    model = Counter(30)
    Probe(epochs=1)(model, *parts_of(), p1())
    assert model.calls == ["forget", *["embed", "observe"] * 600]


def test_batches_without_labels_are_refused():
    log = EventLog.from_arrays([0, 1], [2, 2], [0, 1])
    batch = log.read(Slice(0, 0, 0, 2)).give(src_row=torch.tensor([0, 1]))
    with pytest.raises(InvalidValueError, match="log with labels"):
        Probe()(Counter(3), [batch], [batch], [batch], p1())
    with pytest.raises(InvalidValueError, match="at least one batch"):
        Probe()(Counter(3), [], [], [], p1())
