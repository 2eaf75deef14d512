"""What a checkpoint gives back is the reader's no longer."""

from __future__ import annotations

import torch

from stepwell.core.state import StateReader, StateWriter
from stepwell.train.state import load_optimizer, save_optimizer


def _stepped() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.arange(3.0)
    optimizer.step()
    return weight, optimizer


def test_two_optimisers_loaded_from_one_reader_share_nothing():
    writer = StateWriter()
    save_optimizer(_stepped()[1], writer)
    reader = StateReader(writer.tensors, writer.values)
    (first, one), (second, other) = _stepped(), _stepped()
    load_optimizer(one, reader)
    load_optimizer(other, reader)
    before = other.state[second]["exp_avg"].clone()
    first.grad = torch.ones(3)
    one.step()
    assert torch.equal(other.state[second]["exp_avg"], before)
