"""A step never asks for a value: it runs where tensors have shapes alone, so a CUDA graph can hold it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import link_loss

NODES, WIDTH = 40, 6
SHAPE = {"dim": 8, "time_dim": 6, "hops": 2, "k": 4}


def batch_of():
    draw = np.random.default_rng(0)
    ends = draw.integers(0, 20, 300), draw.integers(20, NODES, 300)
    features = draw.standard_normal((300, WIDTH), dtype=np.float32)
    log = EventLog.from_arrays(*ends, np.arange(300), features=features, num_nodes=NODES)
    return list(Pipeline(log, FixedBatches(50), negatives=UniformNegatives(2), sampler=Recent(4), hops=2, prefetch=0))[
        3
    ]


@pytest.mark.parametrize(
    "model",
    [
        TGAT(NODES, WIDTH, 0, TGATSettings(**SHAPE)),
        TGN(NODES, WIDTH, 0, TGNSettings(memory_dim=7, **SHAPE)),
        TGN(NODES, WIDTH, 0, TGNSettings(memory_dim=7, idle="update", **SHAPE)),
        TGN(NODES, WIDTH, 0, TGNSettings(memory_dim=7, delta="memory", **{**SHAPE, "hops": 1})),
    ],
    ids=["tgat", "tgn", "tgn with idle nodes updated", "tgn with ages by memory"],
)
def test_a_step_runs_on_a_device_without_values(model):
    model, batch = model.to("meta"), batch_of().to("meta")
    if model.hops == 1:
        batch = batch.give(levels=batch.levels_of()[:1])
    optimizer = torch.optim.Adam(model.parameters())

    loss = link_loss(model, batch)
    loss.backward()
    with torch.no_grad():
        model.observe(batch)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    assert loss.shape == ()
    assert all(
        parameter.grad.shape == parameter.shape for parameter in model.parameters() if parameter.grad is not None
    )


def test_what_asks_for_a_value_is_noticed_there():
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones(3, device="meta").any())
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").nonzero()
