"""What each part of ETC gives a TGN step on two cores: adaptive batches, distinct rows, batches made ahead."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch

from benchmarks.harness import Claim, Result, interleave
from benchmarks.streams import negatives, stream
from benchmarks.training import Given, adam, epoch
from stepwell.access import AdaptiveBatches, FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.repeat import Repeat
from stepwell.evaluate.metrics import average_precision
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog

SIZE, K, WIDTH, BEGIN = 200, 10, 172, 40_000
CLAIMS = [
    Claim(
        "etc_ablation",
        "1-hop TGN training on 8,000 events of jodie-wikipedia (172 generated features): events/s with adaptive "
        "batches like 200, distinct rows and prefetch, against fixed batches of 200 with neither",
        2.0,
        "x",
    ),
    Claim(
        "etc_adaptive_ap",
        "1-hop TGN on the first 40,000 events of jodie-wikipedia without features, two epochs of the first 32,000, "
        "five seeds: mean test AP with adaptive batches minus that with as many fixed batches of equal size, evaluated "
        "in fixed batches of 200",
        -0.3,
        "AP x 100",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Time all eight combinations in turn, then compare accuracy at an equal number of batches."""
    torch.set_num_threads(2)
    return [_ablation(quick=quick), _accuracy(quick=quick)]


def _ablation(*, quick: bool) -> Result:
    log = stream("jodie-wikipedia", WIDTH, 60_000)
    part, other = log[BEGIN : BEGIN + (2_000 if quick else 8_000)], negatives(log)
    model = TGN(log.num_nodes, WIDTH, 0, TGNSettings(dropout=0.0))
    with torch.no_grad():
        for batch in Pipeline(log[:BEGIN], FixedBatches(2_000)):
            model.observe(batch)
    state, weights = model.snapshot(), {name: value.clone() for name, value in model.state_dict().items()}
    pipelines: dict[str, Pipeline] = {}
    for adaptive, distinct, prefetch in product((False, True), (False, True), (0, 2)):
        name = f"{'adaptive' if adaptive else 'fixed'}, {'distinct' if distinct else 'repeated'}, prefetch {prefetch}"
        pipelines[name] = Pipeline(
            part,
            AdaptiveBatches(like=SIZE) if adaptive else FixedBatches(SIZE),
            negatives=Given(other),
            sampler=Recent(K),
            stages=[] if distinct else [Repeat()],
            prefetch=prefetch,
        )

    def work(pipeline: Pipeline) -> Callable[[], object]:
        def run() -> None:
            model.load_state_dict(weights)
            model.restore(state)
            optimizer = adam(model)
            for batch in pipeline:
                optimizer.zero_grad(set_to_none=True)
                logits = model.score(batch)
                target = torch.zeros_like(logits)
                target[:, 0] = 1
                torch.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
                with torch.no_grad():
                    model.observe(batch)
                optimizer.step()

        return run

    timing = interleave({name: work(pipeline) for name, pipeline in pipelines.items()}, 1 if quick else 3)
    baseline: dict[str, dict[str, float | str]] = {}
    for name, pipeline in pipelines.items():
        taken, gathered = timing[name], pipeline.measured["Gather"].size_bytes or 0.0
        nodes = sum(len(batch.nodes) for batch in pipeline)  # type: ignore[arg-type]
        state_bytes = nodes * (4.0 * (model.memory.dim + WIDTH) + 24)
        baseline[name] = {
            "events_per_s": len(part) / taken.wall_s,
            "cpu_us_per_event": 1e6 * taken.cpu_s / len(part),
            "batches": float(len(pipeline)),
            "feature_bytes_per_event": gathered / len(part),
            "state_bytes_per_event": state_bytes / len(part),
        }
    best, worst = "adaptive, distinct, prefetch 2", "fixed, repeated, prefetch 0"
    ratio = float(baseline[best]["events_per_s"]) / float(baseline[worst]["events_per_s"])
    why = (
        "Events per second of wall time. `repeated` still samples each distinct query once, so it is faster than a "
        "loader that samples every query. Distinct rows and prefetch change no AP; adaptive batches: see "
        "etc_adaptive_ap."
    )
    return Result("etc_ablation", ratio, baseline, why=why)


def _accuracy(*, quick: bool) -> Result:
    log = stream("jodie-wikipedia", events=6_000 if quick else 40_000)
    train, test = log[: int(0.8 * len(log))], log[int(0.8 * len(log)) :]
    adaptive = AdaptiveBatches(like=SIZE)
    same = FixedBatches(round(adaptive.mean_size(train)))
    seeds = (0,) if quick else (0, 1, 2, 3, 4)
    found = {str(b): [_train(train, test, b, seed) for seed in seeds] for b in (adaptive, same, FixedBatches(SIZE))}
    means = {name: sum(values) / len(values) for name, values in found.items()}
    baseline: dict[str, dict[str, float | str]] = {
        name: {"ap": means[name], "spread": max(values) - min(values)} for name, values in found.items()
    }
    size, bound = adaptive.mean_size(train), adaptive.bound(train)
    why = f"Adaptive batches hold {size:.0f} events on average; each loses at most {bound} updates."
    return Result("etc_adaptive_ap", means[str(adaptive)] - means[str(same)], baseline, seeds=seeds, why=why)


def _train(train: EventLog, test: EventLog, batches: AdaptiveBatches | FixedBatches, seed: int) -> float:
    torch.manual_seed(seed)
    model = TGN(train.num_nodes)
    optimizer = adam(model, 1e-3)
    for number in range(2):
        pipeline = Pipeline(train, batches, negatives=UniformNegatives(1), sampler=Recent(K), seed=100 * seed + number)
        model.train()
        epoch(model, pipeline, optimizer)
    model.eval()
    scores = []
    with torch.no_grad():
        for batch in Pipeline(test, FixedBatches(SIZE), negatives=UniformNegatives(1), sampler=Recent(K), seed=10_000):
            scores.append(model.score(batch))
            model.observe(batch)
    score = torch.cat(scores)
    target = torch.zeros(score.shape, dtype=torch.bool)
    target[:, 0] = True
    return 100 * average_precision(target.numpy().ravel(), score.numpy().ravel())
