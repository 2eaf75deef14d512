"""The accuracy reference: TPNet on collegemsg under P1, beside TGN. Settings were chosen on validation."""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch

from benchmarks.harness import Claim, Result
from benchmarks.streams import stream
from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.evaluate import Report, evaluation_for, p1, split_for
from stepwell.nn import TGN, TPNet, TPNetSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

CLAIMS = [
    Claim(
        "tpnet_collegemsg",
        "TPNet on collegemsg with pair histories, P1 transductive, walks and histories as of each query like its "
        "neighbours, AP (mean over batches of 200), mean of three seeds",
        96.5,
        "AP x 100",
    ),
]
_SETTINGS = TPNetSettings(decay=(1e-7, 1e-6, 1e-5), dim=64, extras=True)


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Train with early stopping by validation, then test once, each seed of each model."""
    torch.set_num_threads(2)
    return [_collegemsg(quick=quick)]


def _collegemsg(*, quick: bool) -> Result:
    seeds = (0,) if quick else (0, 1, 2)
    log = stream("collegemsg", events=12_000 if quick else 0)
    ours = LoopConfig(epochs=1 if quick else 14, learning_rate=1e-3, patience=6, pooling="batches")
    theirs = LoopConfig(epochs=1 if quick else 30, learning_rate=2e-4, patience=8, pooling="batches")
    found, tgn = [], []
    for seed in seeds:
        found.append(_p1(log, TPNet, _SETTINGS, replace(ours, seed=seed)))
        tgn.append(_p1(log, TGN, None, replace(theirs, seed=seed)))
    aps = [100 * report.score("ap", "batches").value for report in found]
    return Result(
        "tpnet_collegemsg",
        statistics.mean(aps),
        {
            "TPNet": {"ap_batches": statistics.mean(aps), "lowest": min(aps), "highest": max(aps)},
            "TGN": {"ap_batches": statistics.mean(100 * report.score("ap", "batches").value for report in tgn)},
        },
        {
            "protocol": str(found[0].protocol),
            "pooled AP x 100": statistics.mean(100 * report["ap"].value for report in found),
        },
        seeds,
        "" if statistics.mean(aps) >= 96.5 else _WHY,
    )


_WHY = (
    "Settings were tried on validation for little time; the paper's own reaches 97.35 with another draw of negatives "
    "and of withheld nodes."
)


def _p1(log: EventLog, make: type[TPNet] | type[TGN], settings: TPNetSettings | None, config: LoopConfig) -> Report:
    """Return the test's report, of the best epoch by validation."""
    split = split_for(log, p1())
    torch.manual_seed(config.seed)
    model = TPNet(log.num_nodes, settings=settings) if make is TPNet else TGN(log.num_nodes)
    sampler = Recent(model.k)
    train = Pipeline(split.train, FixedBatches(200), negatives=UniformNegatives(1), sampler=sampler, seed=config.seed)
    loop = Loop(model, train, config, evaluation_for(p1("validation"), split, sampler=sampler))
    loop.fit()
    return loop.test(evaluation_for(p1(), split, sampler=sampler))
