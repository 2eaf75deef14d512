"""Reuse of embeddings in training: CPU seconds against our own computation with and without dedup, and accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch

from benchmarks.claims.two_hop import link, plain
from benchmarks.harness import Claim, Result, Timing, interleave
from benchmarks.streams import negatives, stream
from benchmarks.training import Given, adam
from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.reuse import reuse_stage
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Batch
from stepwell.core.shapes import Model, Stage
from stepwell.evaluate import evaluation_for, p1, split_for
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

SIZE, WIDTH, K, BEGIN = 200, 172, 10, 34_000
BATCHES = {"reuse": 30, "exact": 6}
PLAIN_SIZE = {2: 200, 3: 50}
"""Events without dedup: with three layers 200 at once do not fit the memory; the work is linear in events."""
EVENTS, EPOCHS, LEARNING_RATE = 30_000, 4, 1e-3
_SETTING = (
    "TGN training on jodie-wikipedia, 172 features, batch 200, 10 neighbours, neighbours asked at their target's time, "
    "reuse of 1000 embeddings a layer from an empty store, planning included, CPU seconds an event over 30 batches"
)
CLAIMS = [
    Claim("orca_l2_vs_plain", f"2 layers: {_SETTING}, against no dedup (1 batch)", 2.5, "x"),
    Claim("orca_l3_vs_plain", f"3 layers: {_SETTING}, against no dedup (50 events)", 8.0, "x"),
    Claim("orca_l2_vs_dedup", f"2 layers: {_SETTING}, against exact dedup (6 batches)", 1.0, "x"),
    Claim("orca_l3_vs_dedup", f"3 layers: {_SETTING}, against exact dedup (6 batches)", 1.5, "x"),
    Claim("orca_causal", f"2 and 3 layers: {_SETTING}, causal over the paper's sharing, the worse", 1.05, "x", "<="),
    Claim(
        "orca_stage", f"2 and 3 layers: {_SETTING}, the stage with its planning in a step, the worse", 0.05, "", "<="
    ),
    Claim(
        "orca_accuracy",
        f"2-layer TGN on the first {EVENTS:,} events of collegemsg, P1 transductive, test AP (mean over batches) with "
        f"causal reuse of 1000 embeddings minus that without reuse, {EPOCHS} epochs each, best epoch by validation, "
        "mean of two seeds",
        -0.3,
        "AP x 100",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time steps over slices of one stream in turn; then train with and without reuse."""
    torch.set_num_threads(2)
    return [*_speed(quick=quick), _accuracy(quick=quick)]


def _speed(*, quick: bool) -> list[Result]:
    log = stream("jodie-wikipedia", WIDTH, 42_000)
    results: list[Result] = []
    causal: dict[str, dict[str, float | str]] = {}
    share: dict[str, dict[str, float | str]] = {}
    for hops in (2, 3):
        timing, counts, stage_s = _contest(log, hops, quick=quick)
        per_event = {name: t.cpu_s / _events(name, hops, quick=quick) for name, t in timing.items()}
        figures: dict[str, dict[str, float | str]] = {
            name: {"cpu_us_an_event": 1e6 * cost, "cpu_s": timing[name].cpu_s} for name, cost in per_event.items()
        }
        for rival in ("plain", "exact"):
            name = f"orca_l{hops}_vs_{'dedup' if rival == 'exact' else rival}"
            gain = per_event[rival] / per_event["reuse"]
            results.append(_result(name, gain, figures, quick=quick, served=counts))
        label = f"{hops} layers"
        causal[label] = {"ratio": per_event["reuse"] / per_event["leaking"], **figures["reuse"]}
        share[label] = {"share": stage_s / timing["reuse"].wall_s, "stage_s": stage_s, "step_s": timing["reuse"].wall_s}
    worst = max(float(figures["ratio"]) for figures in causal.values())
    slowest = max(float(figures["share"]) for figures in share.values())
    return [
        *results,
        _result("orca_causal", worst, causal, quick=quick),
        _result("orca_stage", slowest, share, quick=quick),
    ]


def _result(
    name: str, measured: float, figures: dict[str, dict[str, float | str]], *, quick: bool, served: object = None
) -> Result:
    claim = next(claim for claim in CLAIMS if claim.name == name)
    quality = cast("dict[str, float | str]", served or {})
    why = "" if claim.holds(measured) else "Layer 1, the memory and the decoder cost the same on both sides."
    return Result(name, measured, figures, quality, (0,), "Two batches, nothing warm." if quick else why)


def _events(name: str, hops: int, *, quick: bool) -> int:
    if name == "plain":
        return PLAIN_SIZE[hops]
    return SIZE * (2 if quick else BATCHES["exact" if name == "exact" else "reuse"])


def _contest(log: EventLog, hops: int, *, quick: bool) -> tuple[dict[str, Timing], dict[str, float | str], float]:
    """Return what each takes over its slice, how reuse served, and the seconds of its stage and plan."""
    model = TGN(log.num_nodes, WIDTH, settings=TGNSettings(hops=hops, k=K, dropout=0.0))
    with torch.no_grad():
        for batch in Pipeline(log[:BEGIN], FixedBatches(2_000)):
            model.observe(batch)
    seen: list[Pipeline] = []

    def batches(name: str, reuse: EmbeddingReuse | None = None) -> Pipeline:
        part = log[BEGIN : BEGIN + _events(name, hops, quick=quick)]
        size = PLAIN_SIZE[hops] if name == "plain" else SIZE
        stages: Sequence[Stage] = [] if reuse is None else [reuse_stage(part, reuse, Recent(K), hops)]
        pipeline = Pipeline(
            part,
            FixedBatches(size),
            negatives=Given(negatives(log)),
            sampler=Recent(K),
            hops=hops,
            hop_time="root",
            stages=stages,
            prefetch=0,
        )
        if name == "reuse":
            seen.append(pipeline)
        return pipeline

    contestants = {
        "reuse": _steps(model, partial(batches, "reuse", EmbeddingReuse()), link),
        "leaking": _steps(model, partial(batches, "leaking", EmbeddingReuse(causal=False)), link),
        "exact": _steps(model, partial(batches, "exact"), link),
        "plain": _steps(model, partial(batches, "plain"), plain),
    }
    timing = interleave(contestants, 1 if quick else 3, warmup=0 if quick else 1)
    spent = sorted(_stage_s(pipeline) for pipeline in seen)
    stage = next(stage for stage in seen[-1].stages if hasattr(stage, "counts"))
    served: dict[str, float | str] = {
        f"layer {hops - 1 - depth}": str(layer) for depth, layer in enumerate(stage.counts)
    }
    return timing, served, spent[len(spent) // 2]


def _stage_s(pipeline: Pipeline) -> float:
    costs = pipeline.measured
    return sum(cost.seconds or 0.0 for name, cost in costs.items() if "ReusedNeighbors" in name)


def _steps(
    model: TGN, batches: Callable[[], Pipeline], loss_of: Callable[[Model, Batch], torch.Tensor]
) -> Callable[[], object]:
    weights, state = {name: value.clone() for name, value in model.state_dict().items()}, model.snapshot()

    def run() -> None:
        model.load_state_dict(weights)
        model.restore(state)
        optimizer = adam(model)
        for batch in batches():
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
            model.observe(batch)
            optimizer.step()

    return run


def _accuracy(*, quick: bool) -> Result:
    log = stream("collegemsg", events=3_000 if quick else EVENTS)
    epochs, seeds = (1, (0,)) if quick else (EPOCHS, (0, 1))
    options: dict[str, EmbeddingReuse | None] = {"no reuse": None, "reuse": EmbeddingReuse()}
    found: dict[str, dict[str, float | str]] = {}
    for name, reuse in options.items():
        runs = [_train(log, reuse, epochs, seed) for seed in seeds]
        found[name] = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
    gap = float(found["reuse"]["ap_batches"]) - float(found["no reuse"]["ap_batches"])
    missed = (
        "Tried on smaller runs, differences to exact: on collegemsg block -1.1 (four seeds), share -.5 (three), clip "
        "-1.8 (three), block with max_age 3 -.8 (one); on jodie-wikipedia block -.9, share -6.1, nothing kept -.8 (two "
        "each). So what is kept, and its age, cost little there: the loss comes from sharing within a batch and from "
        "blocked gradients, which were not told apart. Without dropout and with eight epochs "
        "(collegemsg, three seeds) block -1.4 (-2.9, +.1, -1.4) and share -3.3, so neither mends it."
    )
    why = "" if gap >= -0.3 else missed
    return Result("orca_accuracy", gap, found, {"epochs": epochs, "learning rate": LEARNING_RATE}, seeds, why)


def _train(log: EventLog, reuse: EmbeddingReuse | None, epochs: int, seed: int) -> dict[str, float]:
    """Return the test's scores in percent of the best epoch by validation; evaluation reuses nothing."""
    split, protocol = split_for(log, p1()), p1()
    torch.manual_seed(seed)
    model = TGN(log.num_nodes, settings=TGNSettings(hops=2, k=K))
    stages: Sequence[Stage] = [] if reuse is None else [reuse_stage(split.train, reuse, Recent(K), 2, seed=seed)]
    train = Pipeline(
        split.train,
        FixedBatches(SIZE),
        negatives=UniformNegatives(1),
        sampler=Recent(K),
        hops=2,
        hop_time="root",
        stages=stages,
        seed=seed,
    )
    parts = (protocol.on("validation"), protocol, p1(events="inductive"))
    validation, test, strangers = (
        evaluation_for(part, split, sampler=Recent(K), hops=2, hop_time="root") for part in parts
    )
    config = LoopConfig(epochs=epochs, learning_rate=LEARNING_RATE, patience=epochs, seed=seed)
    loop = Loop(model, train, config, validation)
    begin = time.process_time()
    result = loop.fit()
    cpu_s = time.process_time() - begin
    report = loop.test(test)
    return {
        "ap_batches": 100 * report.score("ap", "batches").value,
        "ap": 100 * report["ap"].value,
        "inductive_ap": 100 * loop.test(strangers)["ap"].value,
        "best_epoch": result.best.epoch + 1,
        "cpu_s": cpu_s,
    }
