"""Two-hop training at batch 200, ten neighbours a hop: against TGM's TGAT and our own plain computation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.harness import Claim, Result, interleave
from benchmarks.streams import negatives, stream, tensors
from benchmarks.training import Given, adam
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.core import Batch
from stepwell.core.shapes import Model
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.nn.plain import plain_score
from stepwell.storage import EventLog

SIZE, K, WIDTH = 200, 10, 172
CLAIMS = [
    Claim("two_hop_tgat_vs_tgm", "2-hop TGAT training steps, batch 200, events/s against TGM's TGAT", 5.0, "x"),
    Claim(
        "two_hop_tgat_vs_plain",
        "2-hop TGAT training steps, batch 200, events/s against our own plain computation",
        5.0,
        "x",
    ),
    Claim(
        "two_hop_tgn_vs_plain",
        "2-hop TGN training steps, batch 200, events/s against our own plain computation",
        5.0,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time steps over the same slice of jodie-wikipedia; compare losses of the two computations of ours."""
    torch.set_num_threads(2)
    log = stream("jodie-wikipedia", WIDTH, 40_000)
    begin, limit = 36_000, 2 if quick else 10
    part = log[begin : begin + SIZE * limit]
    other = negatives(log)
    tgat = TGAT(log.num_nodes, WIDTH, 0, TGATSettings(hops=2, k=K, dropout=0.0))
    tgn = TGN(log.num_nodes, WIDTH, 0, TGNSettings(hops=2, k=K, dropout=0.0))
    _remember(tgn, log[:begin])
    contestants: dict[str, Callable[[], object]] = {}
    for name, model in (("TGAT", tgat), ("TGN", tgn)):
        contestants[f"stepwell {name}"] = _steps(model, part, other, link)
        contestants[f"plain {name}"] = _steps(model, part, other, plain)
    try:
        contestants["TGM TGAT"] = _tgm(log, begin, other, limit)
    except ImportError:
        pass
    timing = interleave(contestants, 1 if quick else 5)
    rates = {name: SIZE * limit / t.wall_s for name, t in timing.items()}
    baseline = {name: {"events_per_s": rates[name], "wall_s": t.wall_s, "cpu_s": t.cpu_s} for name, t in timing.items()}
    quality = {"largest difference of losses": _difference(part, other, [tgat, tgn])}
    results = [
        Result(f"two_hop_{n.lower()}_vs_plain", rates[f"stepwell {n}"] / rates[f"plain {n}"], baseline, quality)
        for n in ("TGAT", "TGN")
    ]
    if "TGM TGAT" in rates:
        results.append(Result("two_hop_tgat_vs_tgm", rates["stepwell TGAT"] / rates["TGM TGAT"], baseline, quality))
    return results


def link(model: Model, batch: Batch) -> torch.Tensor:
    """Return the loss of a batch as our models compute it."""
    return _loss(model.score(batch))


def plain(model: Model, batch: Batch) -> torch.Tensor:
    """Return the loss of a batch with every neighbour of every query projected."""
    return _loss(plain_score(model, batch))  # type: ignore[arg-type]


def _loss(logits: torch.Tensor) -> torch.Tensor:
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    positive, other = logits[:, 0], logits[:, 1]
    return entropy(positive, torch.ones_like(positive)) + entropy(other, torch.zeros_like(other))


def _pipeline(part: EventLog, other: torch.Tensor) -> Pipeline:
    return Pipeline(part, FixedBatches(SIZE), negatives=Given(other), sampler=Recent(K), hops=2)


def _steps(
    model: TGAT | TGN, part: EventLog, other: torch.Tensor, loss_of: Callable[..., torch.Tensor]
) -> Callable[[], object]:
    weights = {name: value.clone() for name, value in model.state_dict().items()}

    def run() -> None:
        model.load_state_dict(weights)
        optimizer = adam(model)
        for batch in _pipeline(part, other):
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, batch).backward()
            model.observe(batch)
            optimizer.step()

    return run


@torch.no_grad()
def _remember(model: TGN, history: EventLog) -> None:
    for batch in Pipeline(history, FixedBatches(2_000)):
        model.observe(batch)


def _difference(part: EventLog, other: torch.Tensor, models: list[TGAT | TGN]) -> float:
    batch = next(iter(_pipeline(part, other)))
    with torch.no_grad():
        return max(abs(float(link(m, batch) - plain(m, batch))) for m in models)


def _tgm(log: EventLog, begin: int, other: torch.Tensor, limit: int) -> Callable[[], object]:
    from benchmarks.peers.tgm_models import TGMTGAT

    peer = TGMTGAT(tensors(log), begin, begin + SIZE * limit, other[begin : begin + SIZE * limit, None], SIZE)
    peer.warm_up(max(0, begin - 10_000), begin)
    return lambda: peer.train(limit)
