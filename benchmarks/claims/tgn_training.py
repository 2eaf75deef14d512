"""TGN training, one hop, ten neighbours, widths 100, 172 features, beside PyG's TGN example: speed, and equal losses.

For the losses three faults of PyG's parts are stepped around: `LastNeighborLoader` sorts unstably and may drop the
newest events of a node that has more than ten in a batch, so events are inserted ten at a time; `TGNMemory` sorts a
batch's messages unstably too, so of equally new ones any may be last; `LastAggregator` without torch-scatter hands a
node without messages the message of another. Times are counted in hours: in seconds the gradients of the time
encoding's frequencies, which grow with the age, make training chaotic, and even in double precision a difference of
1e-16 reaches 1e-2 within 45 steps. Timing uses seconds and the parts as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import Claim, Result, interleave
from benchmarks.peers.pyg_tgn import PyGTGN
from benchmarks.streams import negatives, stream, tensors
from benchmarks.training import adam, carry_weights, epoch, keep_order, pyg_batches, pyg_like
from stepwell.core import Batch
from stepwell.core.shapes import Model
from stepwell.kernels.products import product
from stepwell.storage import EventLog

WIDTH, BEGIN, STEPS, SIZE = 172, 40_000, 50, 200
CLAIMS = [
    Claim("tgn_training_200", "TGN training on jodie-wikipedia, batch 200, events/s against PyG's example", 2.5, "x"),
    Claim("tgn_training_2000", "TGN training on jodie-wikipedia, batch 2000, events/s against PyG's example", 2.5, "x"),
    Claim(
        "tgn_training_losses",
        "first 50 losses of TGN on jodie-wikipedia (hours) from equal weights, batches and negatives, against PyG",
        1e-4,
        "largest difference",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time steps of both over the same events, and compare the first losses."""
    torch.set_num_threads(2)
    log = stream("jodie-wikipedia", WIDTH, 70_000)
    results = [_speed(log, size, quick) for size in (200, 2000)]
    quality = {"largest difference in double precision": _losses(log, torch.float64)}
    return [*results, Result("tgn_training_losses", _losses(log, torch.float32), quality=quality, seeds=(0,))]


def _speed(log: EventLog, size: int, quick: bool) -> Result:  # noqa: FBT001
    steps = (3 if quick else 10) if size > 1000 else (10 if quick else 40)
    part, other = log[BEGIN : BEGIN + steps * size], negatives(log)
    contestants = {"stepwell": _ours(log, part, other, size), "PyG": _theirs(log, part, other, size)}
    timing = interleave(contestants, 1 if quick else 5)
    rates = {name: len(part) / t.wall_s for name, t in timing.items()}
    baseline: dict[str, dict[str, float | str]] = {
        name: {"events_per_s": rates[name], "ms_per_step": t.wall_s / steps * 1e3, "cpu_s": t.cpu_s}
        for name, t in timing.items()
    }
    flops = _flops(log, part, other, size)
    limit = flops / _product_rate()
    baseline["arithmetic limit"] = {"ms_per_step": limit * 1e3, "gflop_per_step": flops / 1e9}
    why = (
        f"Medians of wall time, batches included; in CPU seconds the ratio is "
        f"{timing['PyG'].cpu_s / timing['stepwell'].cpu_s:.1f}. Both use two threads: if another program holds a core, "
        f"threads wait for each other, and we, with less serial work, lose more than PyG."
    )
    return Result(f"tgn_training_{size}", rates["stepwell"] / rates["PyG"], baseline, seeds=(0,), why=why)


def _ours(log: EventLog, part: EventLog, other: torch.Tensor, size: int) -> Callable[[], object]:
    model = pyg_like(log)
    _remember(model, log[:BEGIN])
    state, weights = model.snapshot(), {name: p.detach().clone() for name, p in model.named_parameters()}
    pipeline = pyg_batches(part, other, size)

    def run() -> None:
        model.restore(state)
        model.load_state_dict(weights, strict=False)
        optimizer = adam(model)
        for batch in pipeline:
            optimizer.zero_grad(set_to_none=True)
            link_loss(model, batch).backward()
            model.observe(batch)
            optimizer.step()

    return run


@torch.no_grad()
def _remember(model: Model, history: EventLog) -> None:
    for batch in pyg_batches(history, negatives(history), 2000):
        model.observe(batch)


def _theirs(log: EventLog, part: EventLog, other: torch.Tensor, size: int) -> Callable[[], object]:
    peer = PyGTGN(tensors(log))
    peer.train_mode(on=True)

    def run() -> None:
        for begin in range(part.begin, part.end, size):
            peer.step(begin, begin + size, other[begin : begin + size])

    with torch.no_grad():
        for begin in range(0, BEGIN, 2000):
            peer.insert(begin, begin + 2000)
    memory, loader = peer.memory, peer.loader
    kept = (memory.memory.clone(), memory.last_update.clone(), dict(memory.msg_s_store), dict(memory.msg_d_store))
    near = (loader.neighbors.clone(), loader.e_id.clone(), loader.cur_e_id)

    def restored() -> None:
        memory.memory.data.copy_(kept[0])
        memory.last_update.copy_(kept[1])
        memory.msg_s_store, memory.msg_d_store = dict(kept[2]), dict(kept[3])
        loader.neighbors.copy_(near[0])
        loader.e_id.copy_(near[1])
        loader.cur_e_id = near[2]
        run()

    return restored


def link_loss(model: Model, batch: Batch) -> torch.Tensor:
    """Return the example's loss: the two mean entropies added."""
    logits = model.score(batch)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    positive, other = logits[:, 0], logits[:, 1]
    return entropy(positive, torch.ones_like(positive)) + entropy(other, torch.zeros_like(other))


def _losses(log: EventLog, precision: torch.dtype) -> float:
    """Return the largest difference of the first losses, with both models in `precision`."""
    columns = (np.asarray(column)[: STEPS * SIZE] for column in (log.src, log.dst, log.time))
    src, dst, seconds = columns
    feature = np.asarray(log.event_feature)[: STEPS * SIZE]
    part = EventLog.from_arrays(src, dst, seconds // 3600, features=feature, num_nodes=log.num_nodes)
    other = negatives(part)
    torch.manual_seed(0)
    peer, model = PyGTGN(tensors(part), dropout=0.0), pyg_like(part, dropout=0.0)
    carry_weights(peer, model)
    for module in (model, peer.memory, peer.gnn, peer.decoder):
        module.to(precision)
    peer.events.feature = peer.events.feature.to(precision)
    keep_order(peer)
    ours = epoch(model, pyg_batches(part, other, SIZE), adam(model), loss_of=link_loss)
    theirs = [peer.step(begin, begin + SIZE, other[begin : begin + SIZE]) for begin in range(0, len(part), SIZE)]
    return float((torch.stack(ours) - torch.stack(theirs)).abs().max())


def _flops(log: EventLog, part: EventLog, other: torch.Tensor, size: int) -> float:
    """Return the operations of the products in one step: forward, and twice that backward where both sides learn."""
    batch = next(iter(pyg_batches(part, other, size)))
    nodes, targets = len(batch.tensor("nodes")), len(batch.levels_of()[0].node)
    memory = 2 * nodes * (472 * 300 + 100 * 100)
    layer = 2 * targets * (3 * 100 * 100 + 2 * 372 * 100)
    decoder = 2 * 3 * size * 100 * 100
    return 2.0 * memory + 2 * nodes * 300 * 100 + 3 * (layer + decoder)


def _product_rate() -> float:
    """Return operations a second of a large product on this machine."""
    a = torch.randn(2048, 2048)
    product(a, a)
    begin = time.perf_counter()
    for _ in range(5):
        product(a, a)
    return 5 * 2 * 2048**3 / (time.perf_counter() - begin)
