"""The reduced models against their slow twins: forward and gradients."""

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.nn.plain import plain_score
from stepwell.storage import EventLog

EVENTS, USERS, ITEMS, WIDTH = 240, 12, 9, 5


def small_log(event_dim: int, node_dim: int) -> EventLog:
    rng = np.random.default_rng(0)
    return EventLog.from_arrays(
        rng.integers(0, USERS, EVENTS),
        USERS + rng.integers(0, ITEMS, EVENTS),
        np.sort(rng.integers(0, EVENTS // 2, EVENTS)),
        features=rng.standard_normal((EVENTS, event_dim)).astype(np.float32) if event_dim else None,
        node_features=rng.standard_normal((USERS + ITEMS, node_dim)).astype(np.float32) if node_dim else None,
    )


def tgn(event_dim, node_dim, **settings):
    wanted = TGNSettings(memory_dim=8, time_dim=6, dim=8, k=4, dropout=0.0, **settings)
    return TGN(USERS + ITEMS, event_dim, node_dim, wanted)


def tgat(event_dim, node_dim, **settings):
    return TGAT(USERS + ITEMS, event_dim, node_dim, TGATSettings(time_dim=6, dim=8, k=4, dropout=0.0, **settings))


CASES = {
    "tgn": (lambda: tgn(WIDTH, 0), WIDTH, 0),
    "tgn without features": (lambda: tgn(0, 0), 0, 0),
    "tgn with node features": (lambda: tgn(WIDTH, 3), WIDTH, 3),
    "tgn that updates idle nodes": (lambda: tgn(WIDTH, 0, idle="update"), WIDTH, 0),
    "tgn on memory age": (lambda: tgn(WIDTH, 0, delta="memory", idle="update"), WIDTH, 0),
    "tgn of 2 hops": (lambda: tgn(WIDTH, 0, hops=2), WIDTH, 0),
    "tgn of 3 hops": (lambda: tgn(WIDTH, 2, hops=3), WIDTH, 2),
    "tgat of 1 hop": (lambda: tgat(WIDTH, 0, hops=1), WIDTH, 0),
    "tgat of 2 hops": (lambda: tgat(WIDTH, 3), WIDTH, 3),
    "tgat without features": (lambda: tgat(0, 0), 0, 0),
}


@pytest.mark.parametrize("as_of", ["event", "batch"])
@pytest.mark.parametrize("case", CASES)
def test_reduced_and_plain_computation_agree_forward_and_backward(case, as_of):
    build, event_dim, node_dim = CASES[case]
    torch.manual_seed(0)
    model = build()
    pipeline = Pipeline(
        small_log(event_dim, node_dim),
        FixedBatches(40),
        negatives=UniformNegatives(2),
        sampler=Recent(model.k),
        hops=model.hops,
        as_of=as_of,
        prefetch=0,
    )
    for batch in pipeline:
        plain = plain_score(model, batch)
        plain.square().sum().backward()
        wanted = {name: p.grad for name, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        reduced = model.score(batch)
        reduced.square().sum().backward()
        torch.testing.assert_close(reduced, plain, rtol=1e-5, atol=1e-5)
        for name, p in model.named_parameters():
            scale = max(1.0, 0.0 if wanted[name] is None else wanted[name].abs().max().item() if p.numel() else 0.0)
            got = torch.zeros_like(p) if p.grad is None else p.grad
            want = torch.zeros_like(p) if wanted[name] is None else wanted[name]
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}")
        model.zero_grad(set_to_none=True)
        model.observe(batch)
