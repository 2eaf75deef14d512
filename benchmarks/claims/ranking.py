"""One-vs-999 ranking of the jodie-wikipedia test with TGN, state frozen per 200 events, equal weights on all sides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import Claim, Result, interleave
from benchmarks.peers.pyg_tgn import PyGTGN, batches
from benchmarks.streams import negatives, stream, tensors
from benchmarks.training import Given, carry_weights, pyg_like
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.evaluate import Evaluation, p3
from stepwell.nn import TGN
from stepwell.storage import EventLog

SIZE, WIDTH = 200, 172
CLAIMS = [
    Claim(
        "ranking_vs_pyg_loop",
        "One-vs-999 MRR of TGN on the jodie-wikipedia test, events/s against PyG one positive at a time",
        20.0,
        "x",
    ),
    Claim("ranking_vs_tgm", "One-vs-999 MRR of TGN on the jodie-wikipedia test, events/s against TGM", 5.0, "x"),
    Claim(
        "ranking_vs_pyg_once",
        "One-vs-999 MRR of TGN on the jodie-wikipedia test, events/s against PyG embedding each node once a batch",
        1.5,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Warm every contestant up to the test, then time ranking from there."""
    torch.set_num_threads(2)
    log = stream("jodie-wikipedia", WIDTH)
    test = log.split().test
    whole = 2 * SIZE if quick else len(test)
    slow = SIZE if quick else 5 * SIZE
    others = Others(log)
    peer, model = _trained(log, 10 if quick else 100)
    carry_weights(peer, model)
    _warm(peer, model, log, test.begin)
    ours, mrr = _ours(model, test[:whole], others)
    contestants: dict[str, tuple[Callable[[], object], int]] = {
        "stepwell": (ours, whole),
        "PyG, each node once a batch": (_pyg(peer, test.begin, whole, others, mrr), whole),
        "PyG, one positive at a time": (
            _pyg(peer, test.begin, SIZE // 2 if quick else 2 * SIZE, others, {}, by_one=True),
            SIZE // 2 if quick else 2 * SIZE,
        ),
    }
    try:
        contestants["TGM"] = (_tgm(log, test.begin, slow, others), slow)
    except ImportError:
        pass
    timing = interleave(
        {name: run for name, (run, _) in contestants.items()}, 1 if quick else 3, warmup=0 if quick else 1
    )
    rates = {name: contestants[name][1] / t.wall_s for name, t in timing.items()}
    baseline: dict[str, dict[str, float | str]] = {
        name: {
            "events_per_s": rates[name],
            "cpu_ms_per_event": 1e3 * t.cpu_s / contestants[name][1],
            "events": float(contestants[name][1]),
        }
        for name, t in timing.items()
    }
    quality = {f"MRR {name}": value for name, value in mrr.items()}
    bars = [
        ("ranking_vs_pyg_loop", "PyG, one positive at a time"),
        ("ranking_vs_tgm", "TGM"),
        ("ranking_vs_pyg_once", "PyG, each node once a batch"),
    ]
    return [Result(claim, rates["stepwell"] / rates[name], baseline, quality) for claim, name in bars if name in rates]


class Others:
    """For each event all destinations but the true one, int64 `[E, 999]`, made a slice at a time."""

    def __init__(self, log: EventLog) -> None:
        self.destinations = torch.from_numpy(log.destinations)
        self.places = torch.from_numpy(np.searchsorted(log.destinations, log.dst))

    def __getitem__(self, rows: slice) -> torch.Tensor:
        places = self.places[rows, None]
        column = torch.arange(len(self.destinations) - 1)
        return self.destinations[column + (column >= places)]


def _trained(log: EventLog, steps: int) -> tuple[PyGTGN, TGN]:
    torch.manual_seed(0)
    peer, model = PyGTGN(tensors(log), dropout=0.0, lr=1e-3), pyg_like(log, dropout=0.0)
    other = negatives(log)
    peer.train_mode(on=True)
    peer.forget()
    for begin, end in batches(0, steps * SIZE, SIZE):
        peer.step(begin, end, other[begin:end])
    return peer, model


@torch.no_grad()
def _warm(peer: PyGTGN, model: TGN, log: EventLog, end: int) -> None:
    peer.forget()
    peer.train_mode(on=False)
    for a, b in batches(0, end, SIZE):
        peer.insert(a, b)
    model.eval()
    model.forget()
    for batch in Pipeline(log[:end], FixedBatches(SIZE)):
        model.observe(batch)


def _ours(model: TGN, test: EventLog, others: Others) -> tuple[Callable[[], object], dict[str, float]]:
    mrr: dict[str, float] = {}
    state = model.snapshot()
    given = Given(others[test.begin : test.end], test.begin)
    pipeline = Pipeline(test, FixedBatches(SIZE), negatives=given, sampler=Recent(10), as_of="batch", keyed_by="node")
    evaluation = Evaluation(pipeline, p3(grid="part"))

    def run() -> None:
        model.restore(state)
        mrr["stepwell"] = evaluation(model)["mrr"].value

    return run, mrr


def _pyg(
    peer: PyGTGN, begin: int, count: int, others: Others, mrr: dict[str, float], *, by_one: bool = False
) -> Callable[[], object]:
    state = peer.state()
    score = peer.scores_one_by_one if by_one else peer.scores
    true = peer.events.dst

    def run() -> None:
        peer.restore(state)
        found = []
        for a, b in batches(begin, begin + count, SIZE):
            answer = score(a, b, torch.cat([true[a:b, None], others[a:b]], 1))
            above = (answer[:, 1:] > answer[:, :1]).sum(1) + (answer[:, 1:] >= answer[:, :1]).sum(1)
            found.append(1 / (1 + above / 2))
        mrr["PyG"] = float(torch.cat(found).mean())

    return run


def _tgm(log: EventLog, begin: int, count: int, others: Others) -> Callable[[], object]:
    from benchmarks.peers.tgm_models import TGMTGN

    peer = TGMTGN(tensors(log), begin, begin + count, others[begin : begin + count], SIZE)
    peer.warm_up(begin - 10_000, begin)
    return lambda: peer.evaluate()
