"""Zebra against its slow twin, the fused sum against its own, and every model on T-PPR lists: forward and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.tppr import TPPR
from stepwell.kernels.attention import Clock, Places
from stepwell.kernels.weighted import weighted_sum, weighted_sum_reference
from stepwell.nn import TGN, GraphMixer, GraphMixerSettings, TGNSettings
from stepwell.nn.plain import plain_score
from stepwell.nn.plain_zebra import plain_zebra_score
from stepwell.nn.zebra import Zebra, ZebraSettings
from stepwell.storage import EventLog
from stepwell.train import link_loss

EVENTS, USERS, ITEMS, WIDTH = 240, 12, 9, 5
FEATURES = ("event_feature", "node_feature", "own_feature")


def small_log(event_dim: int, node_dim: int) -> EventLog:
    rng = np.random.default_rng(0)
    return EventLog.from_arrays(
        rng.integers(0, USERS, EVENTS),
        USERS + rng.integers(0, ITEMS, EVENTS),
        np.sort(rng.integers(0, EVENTS // 2, EVENTS)),
        features=rng.standard_normal((EVENTS, event_dim)).astype(np.float32) if event_dim else None,
        node_features=rng.standard_normal((USERS + ITEMS, node_dim)).astype(np.float32) if node_dim else None,
    )


def zebra(event_dim: int, node_dim: int, **settings: object) -> Zebra:
    wanted = ZebraSettings(memory_dim=8, time_dim=6, dim=8, k=4, dropout=0.0, **settings)  # type: ignore[arg-type]
    return Zebra(USERS + ITEMS, event_dim, node_dim, wanted)


def batches(log: EventLog, sampler, hops: int = 1) -> Pipeline:
    return Pipeline(log, FixedBatches(40), negatives=UniformNegatives(2), sampler=sampler, hops=hops, prefetch=0)


def check_close(model: torch.nn.Module, got: torch.Tensor, want: torch.Tensor) -> None:
    """Compare scores, and the gradients of their squares."""
    gradients = []
    for scores in (want, got):
        model.zero_grad(set_to_none=True)
        scores.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    for name, p in model.named_parameters():
        wanted, found = (torch.zeros_like(p) if g[name] is None else g[name] for g in gradients)
        scale = max(1.0, wanted.abs().max().item() if wanted.numel() else 0.0)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}")
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("sampler", ["tppr", "recent"])
@pytest.mark.parametrize(
    ("event_dim", "node_dim", "settings"),
    [
        (WIDTH, 0, {}),
        (0, 0, {}),
        (WIDTH, 3, {}),
        (WIDTH, 0, {"alpha": (0.1,), "beta": (0.5,)}),
        (0, 2, {"alpha": (0.1, 0.3, 0.5), "beta": (0.5, 0.9, 0.7)}),
    ],
    ids=["event features", "no features", "node features", "one metric", "three metrics"],
)
def test_zebra_is_its_plain_computation_forward_and_backward(event_dim, node_dim, settings, sampler):
    torch.manual_seed(0)
    model, log = zebra(event_dim, node_dim, **settings), small_log(event_dim, node_dim)
    for batch in batches(log, model.settings.sampler if sampler == "tppr" else Recent(model.k)):
        check_close(model, model.score(batch), plain_zebra_score(model, batch))
        model.observe(batch)


@pytest.mark.parametrize("hops", [1, 2])
def test_tgn_runs_on_tppr_lists_as_its_plain_computation_does(hops):
    torch.manual_seed(0)
    log = small_log(WIDTH, 0)
    settings = TGNSettings(memory_dim=8, time_dim=6, dim=8, k=4, dropout=0.0, hops=hops)
    model = TGN(USERS + ITEMS, WIDTH, 0, settings)
    for batch in batches(log, TPPR(4), hops):
        check_close(model, model.score(batch), plain_score(model, batch))
        model.observe(batch)


def test_graphmixer_learns_on_tppr_lists():
    torch.manual_seed(0)
    log = small_log(WIDTH, 0)
    model = GraphMixer(USERS + ITEMS, WIDTH, 0, GraphMixerSettings(8, 8, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        losses.append(0.0)
        for batch in batches(log, TPPR(4)):
            optimizer.zero_grad()
            loss = link_loss(model, batch)
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item()
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("num_lists", [1, 2, 3])
@pytest.mark.parametrize("event_dim", [0, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_fused_sum_is_the_sum_of_every_place_by_itself(num_lists, event_dim, seed):
    torch.manual_seed(seed)
    targets, k, rows, events, width, time_dim = 30, 6 * num_lists, 11, 9, 16, 5
    mask = (torch.arange(k) // num_lists)[None] < torch.randint(0, 7, (targets, 1))
    weight = (torch.rand(targets, k) * mask * (torch.rand(targets, k) > 0.2)).view(targets, -1, num_lists)
    places = Places(
        torch.randint(0, rows, (targets, k)) * mask,
        torch.randint(0, 3, (targets, k)) * mask,
        mask,
        (torch.rand(targets, 1) * 50).expand(targets, k),
    )
    state, event = torch.randn(rows, width), torch.randn(events if event_dim else 0, width)
    clock = Clock(10.0 ** -torch.linspace(0, 3, time_dim), torch.randn(time_dim))
    leaves = [t.requires_grad_() for t in (state, event, torch.randn(width, time_dim), *clock)]
    upstream = torch.randn(targets, num_lists, width)
    found = []
    for function in (weighted_sum, weighted_sum_reference):
        out = function(*leaves[:3], Clock(*leaves[3:]), places, weight)
        gradients = torch.autograd.grad((out * upstream).sum(), leaves, allow_unused=True)
        found.append((out, *(torch.zeros_like(t) if g is None else g for g, t in zip(gradients, leaves, strict=True))))
    for name, got, want in zip(("sum", "state", "event", "matrix", "omega", "phase"), *found, strict=True):
        scale = max(1.0, want.abs().max().item() if want.numel() else 0.0)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}")
    assert not found[0][0][(weight == 0).all(1)].any()


def test_the_fused_sum_has_the_same_bits_for_any_number_of_threads():
    torch.manual_seed(0)
    mask = torch.rand(300, 40) > 0.2
    weight = (torch.rand(300, 40) * mask).view(300, 20, 2)
    places = Places(torch.randint(0, 90, (300, 40)), torch.randint(0, 70, (300, 40)), mask, torch.rand(300, 40))
    state, event = torch.randn(90, 64, requires_grad=True), torch.randn(70, 64, requires_grad=True)
    matrix, clock = torch.randn(64, 8), Clock(torch.rand(8), torch.rand(8))
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            out = weighted_sum(state, event, matrix, clock, places, weight)
            found.append((out.detach(), *torch.autograd.grad(out.square().sum(), [state, event])))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_zebra_in_double_precision_scores_as_in_single():
    torch.manual_seed(0)
    log, model = small_log(WIDTH, 2), zebra(WIDTH, 2)
    for batch in batches(log, model.settings.sampler):
        model.double()
        double = model.score(batch.give(**{name: batch.tensor(name).double() for name in FEATURES}))
        model.float()
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), model.score(batch), rtol=1e-4, atol=1e-5)
        model.observe(batch)
