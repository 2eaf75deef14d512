"""How good the trained models are: TGN on two streams under P1, and against PyG from equal starts."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import torch

from benchmarks.harness import Claim, Result
from benchmarks.peers.pyg_tgn import PyGTGN, batches
from benchmarks.streams import negatives, stream, tensors
from benchmarks.training import adam, carry_weights, epoch, keep_order, pyg_batches, pyg_like
from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.evaluate import Protocol, evaluation_for, p1, split_for
from stepwell.evaluate.metrics import average_precision
from stepwell.nn import TGN, EdgeBank
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

CLAIMS = [
    Claim(
        "accuracy_collegemsg",
        "TGN on collegemsg, P1 transductive, AP (mean over batches of 200), mean of five seeds",
        92.0,
        "AP x 100",
    ),
    Claim(
        "accuracy_wikipedia",
        "TGN on jodie-wikipedia without features, P1 transductive, AP (mean over batches) above EdgeBank's",
        1.0,
        "AP x 100",
    ),
    Claim(
        "accuracy_vs_pyg",
        "TGN on collegemsg, test AP minus PyG's from equal starts: far end of the 95 % interval, five seeds",
        0.3,
        "AP x 100",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Train under P1 with early stopping by validation; compare with PyG without it."""
    torch.set_num_threads(2)
    return [_collegemsg(quick=quick), _wikipedia(quick=quick), _against_pyg(quick=quick)]


def _collegemsg(*, quick: bool) -> Result:
    seeds = (0,) if quick else (0, 1, 2, 3, 4)
    log = stream("collegemsg")
    config = LoopConfig(epochs=1 if quick else 30, learning_rate=2e-4, patience=8)
    found = [_train(log, p1(), replace(config, seed=seed)) for seed in seeds]
    batched, pooled = [f["ap/batches"] for f in found], [f["ap"] for f in found]
    quality = {"pooled AP x 100": statistics.mean(pooled), "AUC x 100": statistics.mean(f["auc"] for f in found)}
    spread = {"standard deviation": statistics.stdev(batched) if len(batched) > 1 else 0.0}
    baseline = {"stepwell": {"ap_batches": statistics.mean(batched), **spread}, "EdgeBank": _edgebank(log)}
    return Result("accuracy_collegemsg", statistics.mean(batched), baseline, quality, seeds)


def _wikipedia(*, quick: bool) -> Result:
    log = stream("jodie-wikipedia", events=20_000 if quick else 0)
    found = _train(log, p1(), LoopConfig(epochs=1 if quick else 6, learning_rate=3e-4, patience=3))
    bank = _edgebank(log)
    baseline = {"stepwell": {"ap_batches": found["ap/batches"]}, "EdgeBank": bank}
    quality = {"pooled AP x 100": found["ap"], "AUC x 100": found["auc"]}
    return Result("accuracy_wikipedia", found["ap/batches"] - float(bank["ap_batches"]), baseline, quality, (0,))


def _train(log: EventLog, protocol: Protocol, config: LoopConfig) -> dict[str, float]:
    """Return the test's scores in percent, of the best epoch by validation."""
    split = split_for(log, protocol)
    torch.manual_seed(config.seed)
    model = TGN(log.num_nodes)
    train = Pipeline(
        split.train, FixedBatches(200), negatives=UniformNegatives(1), sampler=Recent(10), seed=config.seed
    )
    loop = Loop(model, train, config, evaluation_for(protocol.on("validation"), split, sampler=Recent(10)))
    loop.fit()
    report = loop.test(evaluation_for(protocol, split, sampler=Recent(10)))
    return {s.name + ("/batches" if s.protocol.pooling == "batches" else ""): 100 * s.value for s in report.scores}


def _edgebank(log: EventLog) -> dict[str, float | str]:
    """Return what remembering pairs gives on the same events and negatives, in percent."""
    split, bank = split_for(log, p1()), EdgeBank()
    for batch in Pipeline(log[: split.test.begin], FixedBatches(5_000), prefetch=0):
        bank.observe(batch)
    report = evaluation_for(p1(), split)(bank)
    return {"ap_batches": 100 * report.score("ap", "batches").value, "ap": 100 * report["ap"].value}


def _against_pyg(*, quick: bool) -> Result:
    seeds, epochs = ((0,), 1) if quick else ((0, 1, 2, 3, 4), 1)
    log = stream("collegemsg", events=8_000 if quick else 0)
    # Hours, and PyG's parts kept in order, for the reasons given in `tgn_training`: else both runs are chaotic.
    none = np.zeros((len(log), 1), np.float32)
    log = EventLog.from_arrays(log.src, log.dst, log.time // 3600, features=none, num_nodes=log.num_nodes)
    pairs = [_pair(log, seed, epochs) for seed in seeds]
    difference = [ours - theirs for ours, theirs in pairs]
    middle = statistics.mean(difference)
    half = 2.776 * statistics.stdev(difference) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    baseline = {
        "stepwell": {"ap": statistics.mean(p[0] for p in pairs)},
        "PyG": {"ap": statistics.mean(p[1] for p in pairs)},
    }
    quality = {"mean difference": middle, "half width of the 95 % interval": half}
    why = (
        f"The mean difference is {middle:.2f}, but five seeds leave an interval from {middle - half:.2f} to "
        f"{middle + half:.2f}: its cause is not established (PyG digests memory at other moments in evaluation)."
    )
    worst = max(abs(middle - half), abs(middle + half))
    return Result("accuracy_vs_pyg", worst, baseline, quality, seeds, why if worst > 0.3 else "")


def _pair(log: EventLog, seed: int, epochs: int) -> tuple[float, float]:
    """Return our and PyG's pooled test AP in percent, from the same start over the same batches and negatives.

    In double precision, so that rounding plays no part.
    """
    torch.manual_seed(seed)
    parts = log.split()
    begin, end = parts.train.end, parts.test.begin
    peer, model = PyGTGN(tensors(log), dropout=0.0, lr=1e-4), pyg_like(log, dropout=0.0)
    carry_weights(peer, model)
    for module in (model, peer.memory, peer.gnn, peer.decoder):
        module.to(torch.float64)
    peer.events.feature = peer.events.feature.double()
    keep_order(peer)
    optimizer = adam(model, 1e-4)
    for number in range(epochs):
        other = negatives(log, seed=100 * seed + number)
        model.train()
        epoch(model, pyg_batches(parts.train, other, 200), optimizer)
        peer.train_mode(on=True)
        peer.forget()
        for a, b in batches(0, begin, 200):
            peer.step(a, b, other[a:b])
    fixed = negatives(log, seed=10_000)
    ours, theirs = [], []
    model.eval()
    peer.train_mode(on=False)
    with torch.no_grad():
        for part in (parts.validation, parts.test):
            for batch in pyg_batches(part, fixed, 200):
                answer = model.score(batch)
                model.observe(batch)
                ours += [answer] if part is parts.test else []
    for a, b in [*batches(begin, end, 200), *batches(end, len(log), 200)]:
        answer = peer.scores(a, b, torch.stack([peer.events.dst[a:b], fixed[a:b]], 1))
        theirs += [answer] if a >= end else []
    return _ap(ours), _ap(theirs)


def _ap(answers: list[torch.Tensor]) -> float:
    score = torch.cat(answers).double().numpy()
    target = np.zeros(score.shape, bool)
    target[:, 0] = True
    return 100 * average_precision(target.ravel(), score.ravel())
