"""All together against the plain exact pipeline with distinct rows: an epoch of TGN at equal accuracy, on two streams.

What pays on a processor is less work a step. A T-PPR list takes the place of two hops, adaptive batches are fewer than
fixed ones with the same bound on lost updates, and batches are made ahead on both sides. Placement changes no value and
moves nothing where all data are in memory, so it is not timed here.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.harness import Claim, Result, once
from benchmarks.streams import negatives, stream, tensors
from benchmarks.training import adam, epoch
from stepwell.access import TPPR, AdaptiveBatches, FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.shapes import Batcher, Sampler
from stepwell.evaluate.metrics import average_precision
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog

SIZE, EPOCHS, RATE = 200, 3, 1e-3
SLICES = {"jodie-wikipedia": (0, 50_000), "sx-mathoverflow": (0, 50_000)}
BARS = {"1 hop": 1.3, "2 hops": 2.0}
CLAIMS = [
    Claim(
        f"together_{name.replace('-', '_')}_{hops.replace(' ', '_')}",
        f"TGN without features on the first 50,000 events of {name}, {EPOCHS} epochs of their first 80 %, three seeds: "
        f"events/s of training all together (T-PPR lists of five places, adaptive batches like 200, prefetch) against "
        f"{hops} of ten recent neighbours in fixed batches of 200 with distinct rows and prefetch, test AP at most "
        "0.3 lower (else 0)",
        bar,
        "x",
    )
    for name in SLICES
    for hops, bar in BARS.items()
]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train."""

    batches: Batcher
    sampler: Sampler
    hops: int = 1


WAYS = {
    "1 hop": Way(FixedBatches(SIZE), Recent(10)),
    "2 hops": Way(FixedBatches(SIZE), Recent(10), 2),
    "1 hop of five": Way(FixedBatches(SIZE), Recent(5)),
    "T-PPR": Way(FixedBatches(SIZE), TPPR(5)),
    "adaptive": Way(AdaptiveBatches(like=SIZE), Recent(10)),
    "all together": Way(AdaptiveBatches(like=SIZE), TPPR(5)),
}


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Train each way in turn, seed after seed; every second seed backwards."""
    torch.set_num_threads(2)
    results = []
    for name, (begin, end) in SLICES.items():
        log = stream(name)[begin : 3_000 if quick else end]
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        quality: dict[str, list[float]] = {way: [] for way in WAYS}
        seeds = (0,) if quick else (0, 1, 2)
        for seed in seeds:
            for way in list(WAYS) if seed % 2 == 0 else list(WAYS)[::-1]:
                taken, ap = _train(log, WAYS[way], seed, 1 if quick else EPOCHS)
                seconds[way] += taken
                quality[way].append(ap)
        results += [_result(name, hops, log, seconds, quality, seeds) for hops in BARS]
    return results


def _result(
    name: str,
    hops: str,
    log: EventLog,
    seconds: dict[str, list[tuple[float, float]]],
    quality: dict[str, list[float]],
    seeds: tuple[int, ...],
) -> Result:
    num_events = int(0.8 * len(log))
    wall = {way: statistics.median(wall for wall, _ in taken) for way, taken in seconds.items()}
    ap = {way: statistics.mean(values) for way, values in quality.items()}
    baseline: dict[str, dict[str, float | str]] = {
        way: {
            "events_per_s": num_events / wall[way],
            "cpu_us_per_event": 1e6 * statistics.median(cpu for _, cpu in seconds[way]) / num_events,
            "ap": ap[way],
            "ap_spread": max(quality[way]) - min(quality[way]),
        }
        for way in dict.fromkeys((hops, "1 hop of five", "T-PPR", "adaptive", "all together"))
    }
    if hops == "1 hop":
        baseline |= _peers(log, num_events / wall["all together"])
    ratio, loss = wall[hops] / wall["all together"], ap[hops] - ap["all together"]
    side = "lower" if loss > 0 else "higher"
    why = f"Training is {ratio:.2f} times as fast; the mean test AP is {abs(loss):.2f} {side}."
    return Result(
        f"together_{name.replace('-', '_')}_{hops.replace(' ', '_')}",
        ratio if loss <= 0.3 else 0.0,
        baseline,
        {"AP x 100, all together minus plain": -loss},
        seeds,
        why,
    )


def _train(log: EventLog, way: Way, seed: int, epochs: int) -> tuple[list[tuple[float, float]], float]:
    """Return wall and CPU seconds of each epoch of training, and the test AP in percent."""
    torch.manual_seed(seed)
    train, test = log[: int(0.8 * len(log))], log[int(0.8 * len(log)) :]
    model = TGN(log.num_nodes, settings=TGNSettings(hops=way.hops))
    optimizer, taken = adam(model, RATE), []
    next(iter(_batches(train, way, seed)))  # builds the index and the lists, which all epochs share
    for number in range(epochs):
        pipeline = _batches(train, way, 100 * seed + number)
        model.train()
        taken.append(once(lambda pipeline=pipeline: epoch(model, pipeline, optimizer)))  # type: ignore[misc]
    model.eval()
    scores = []
    with torch.no_grad():
        for batch in _batches(test, Way(FixedBatches(SIZE), way.sampler, way.hops), 10_000):
            scores.append(model.score(batch))
            model.observe(batch)
    score = torch.cat(scores)
    target = torch.zeros(score.shape, dtype=torch.bool)
    target[:, 0] = True
    gc.collect()
    return taken[1:] or taken, 100 * average_precision(target.numpy().ravel(), score.numpy().ravel())


def _batches(log: EventLog, way: Way, seed: int) -> Pipeline:
    return Pipeline(
        log, way.batches, negatives=UniformNegatives(1), sampler=way.sampler, hops=way.hops, prefetch=2, seed=seed
    )


def _peers(log: EventLog, ours: float) -> dict[str, dict[str, float | str]]:
    """Return what 1-hop TGN of PyG and TGM do on twenty batches in the middle, as far as they are installed."""
    begin, end, other = len(log) // 2, min(len(log), len(log) // 2 + 20 * SIZE), negatives(log)
    blank = np.zeros((len(log), 1), np.float32)  # PyG cannot store messages without a feature
    log = EventLog.from_arrays(log.src, log.dst, log.time, features=blank, num_nodes=log.num_nodes)
    found: dict[str, dict[str, float | str]] = {}
    for name, make in (("PyG", _pyg), ("TGM", _tgm)):
        try:
            work = make(log, begin, end, other)
        except ImportError:
            continue
        once(work)
        rate = (end - begin) / statistics.median(once(work)[0] for _ in range(3))
        found[name] = {"events_per_s": rate, "all together, times as fast": ours / rate}
    return found


def _pyg(log: EventLog, begin: int, end: int, other: torch.Tensor) -> Callable[[], object]:
    from benchmarks.peers.pyg_tgn import PyGTGN

    peer = PyGTGN(tensors(log))
    peer.train_mode(on=True)

    def run() -> None:
        peer.forget()
        with torch.no_grad():
            for a in range(0, begin, 10 * SIZE):
                peer.insert(a, min(a + 10 * SIZE, begin))
        for a in range(begin, end, SIZE):
            peer.step(a, min(a + SIZE, end), other[a : min(a + SIZE, end)])

    return run


def _tgm(log: EventLog, begin: int, end: int, other: torch.Tensor) -> Callable[[], object]:
    from benchmarks.peers.tgm_models import TGMTGN

    peer = TGMTGN(tensors(log), begin, end, other[begin:end, None], SIZE)
    peer.warm_up(max(0, begin - 5_000), begin)
    return peer.train
