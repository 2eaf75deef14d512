"""What kernels and graphs give on an accelerator, each against the way without them on the same one.

Without a device nothing is measured. Queries, tables and batches lie where the contestants want them before the clock
runs, and each turn ends when the device has nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from benchmarks.harness import Claim, Result, Timing, interleave
from benchmarks.streams import negatives, stream
from benchmarks.training import Given
from stepwell import kernels
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.kernels.attention import Clock, Places, attend_reference
from stepwell.kernels.gpu import has_triton
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

K, SIZE, WIDTH = 10, 200, 172
CLAIMS = [
    Claim(
        "gpu_sampling_ahead",
        "Recent-10 sampling of jodie-wikipedia on a device, batches of 600 queries: 32 batches a launch against one",
        4.0,
        "x",
    ),
    Claim(
        "gpu_attention",
        "Fused attention on a device, forward and backward, 2,000 targets of ten neighbours and 372 columns, against "
        "the faster of torch's operations and their compiled form",
        2.0,
        "x",
    ),
    Claim(
        "gpu_pinned_gather",
        "Rows of 688 bytes at random from pinned host memory, read by the device, against a gather on the host and a "
        "copy",
        2.0,
        "x",
    ),
    Claim(
        "gpu_graphed_step",
        "TGN training steps on jodie-wikipedia on a device, batch 200, replayed as CUDA graphs against eager, batches "
        "at hand",
        2.0,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Measure all four where there is a device with Triton; nothing elsewhere."""
    if not torch.cuda.is_available():
        print("Not measured: these claims need a CUDA device, and there is none.")
        return []
    if not has_triton():
        print("Not measured: these claims need Triton, which comes with the CUDA builds of torch.")
        return []
    device = torch.device("cuda")
    return [part(device, quick) for part in (sampling, attention, pinned_gather, graphed_steps)]


def sampling(device: torch.device, quick: bool) -> Result:  # noqa: FBT001
    """Answer the queries of a stream's batches, 32 batches a launch and one."""
    from stepwell.kernels.gpu.sample import DeviceIndex, LookAhead, Queries

    log = stream("jodie-wikipedia", events=20_000 if quick else 0)
    asked = _queries(log)
    index = DeviceIndex.of(log.index, device)
    queries = [Queries(*(torch.from_numpy(column).to(device) for column in one)) for one in asked]

    def answered(batches: int) -> Callable[[], object]:
        ahead = LookAhead(index, K, batches)
        return _settled(device, lambda: [found.node for found in ahead(queries)])

    flat = (log.index.indptr, log.index.neighbor, log.index.event, log.index.time)
    wrong = sum(
        int((found.event.cpu().numpy() != kernels.recent_neighbors(*flat, *one, K)[1]).sum())
        for found, one in zip(LookAhead(index, K)(queries), asked, strict=True)
    )
    timing = interleave({"32 batches a launch": answered(32), "one batch a launch": answered(1)}, 3 if quick else 9)
    count = sum(len(nodes) for nodes, _, _ in asked)
    baseline = _figures(timing, "queries_per_s", count)
    return _result("gpu_sampling_ahead", timing, baseline, {"events that differ from the CPU's": wrong})


def attention(device: torch.device, quick: bool, targets: int = 2_000) -> Result:  # noqa: FBT001
    """Attend and differentiate over made-up rows of the widths of a TGN on jodie-wikipedia."""
    from stepwell.kernels.gpu.attention import attend

    torch.manual_seed(0)
    heads, dim, rows = 2, 100, 2 * targets
    u = torch.randn(targets, heads, 2 * dim + WIDTH, device=device).requires_grad_()
    h = torch.randn(rows, dim, device=device).requires_grad_()
    clock = Clock(*(torch.randn(dim, device=device).requires_grad_() for _ in range(2)))
    x = torch.randn(rows, WIDTH, device=device)
    read = torch.randint(0, rows, (2, targets, K), device=device)
    places = Places(
        read[0],
        read[1],
        torch.rand(targets, K, device=device) < 0.9,
        torch.rand(targets, K, device=device),
    )
    inputs, scale = (u, h, *clock), dim**-0.5

    def step(compute: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        sums, total = compute(u, h, clock, x, places, scale)
        return sums.detach(), *torch.autograd.grad(sums.square().sum() + total.sum(), inputs)

    def repeated(compute: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], object]:
        return lambda: [step(compute) for _ in range(repeats)]

    repeats = 20 if quick else 200
    compute = {"fused": attend, "torch": attend_reference}
    if device.type == "cuda":
        compute["torch, compiled"] = torch.compile(attend_reference)
    contestants = {name: _settled(device, repeated(one)) for name, one in compute.items()}
    pairs = zip(step(attend), step(attend_reference), strict=True)
    difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    timing = interleave(contestants, 3 if quick else 9)
    baseline = _figures(timing, "targets_per_s", targets * repeats)
    return _result("gpu_attention", timing, baseline, {"largest difference, of the largest value": difference})


def pinned_gather(device: torch.device, quick: bool) -> Result:  # noqa: FBT001
    """Read rows of a table that lies in host memory."""
    from stepwell.kernels.gpu.pinned import gather_pinned

    rows, asked = (100_000, 20_000) if quick else (2_000_000, 200_000)
    table = torch.randn(rows, WIDTH, pin_memory=device.type == "cuda")
    wanted = torch.from_numpy(np.random.default_rng(0).integers(0, rows, asked))
    there, buffer = wanted.to(device), torch.empty(asked, WIDTH, pin_memory=device.type == "cuda")

    def host() -> torch.Tensor:
        torch.index_select(table, 0, wanted, out=buffer)
        return buffer.to(device, non_blocking=True)

    contestants = {
        "read by the device": _settled(device, lambda: gather_pinned(table, there)),
        "gathered on the host": _settled(device, host),
        "copied in one piece": _settled(device, lambda: buffer.to(device, non_blocking=True)),
    }
    equal = torch.equal(gather_pinned(table, there), host())
    timing = interleave(contestants, 3 if quick else 15)
    baseline = _figures(timing, "gb_per_s", asked * WIDTH * 4 / 1e9)
    rivals = {name: one for name, one in timing.items() if name != "copied in one piece"}
    return _result("gpu_pinned_gather", rivals, baseline, {"rows are equal": str(equal)})


def graphed_steps(device: torch.device, quick: bool) -> Result:  # noqa: FBT001
    """Train over the same batches, replayed and eagerly; both have warmed up on them."""
    log = stream("jodie-wikipedia", WIDTH, 40_000)
    part = log[36_000 : 36_000 + SIZE * (5 if quick else 20)]
    batches = Pipeline(part, FixedBatches(SIZE), negatives=Given(negatives(log)), sampler=Recent(K), device=device)
    given = list(batches)

    def loop_of(*, graphed: bool) -> Loop:
        torch.manual_seed(0)
        model = TGN(log.num_nodes, WIDTH, 0, TGNSettings(k=K, dropout=0.0)).to(device).train()
        return Loop(model, batches, LoopConfig(graphed=graphed))

    def passes(loop: Loop, times: int) -> Callable[[], object]:
        def run() -> None:
            for _ in range(times):
                loop.model.forget()
                for batch in given:
                    loop.step(batch)

        return _settled(device, run)

    times = 2 if quick else 10
    loops = {"replayed": loop_of(graphed=True), "eager": loop_of(graphed=False)}
    for _ in range(4):  # the room has its size after one pass; then come the steps before recording
        for loop in loops.values():
            passes(loop, 1)()
    timing = interleave({name: passes(loop, times) for name, loop in loops.items()}, 3 if quick else 9)
    weights = [torch.cat([p.detach().flatten() for p in _module(loop).parameters()]) for loop in loops.values()]
    quality = {"largest difference of weights": float((weights[0] - weights[1]).abs().max())}
    baseline = _figures(timing, "events_per_s", len(part) * times)
    return _result("gpu_graphed_step", timing, baseline, quality)


def _queries(log: EventLog) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return nodes, times and prefixes of each batch, int64 `[600]`: source, destination, a negative an event."""
    other = negatives(log).numpy()
    found = []
    for begin in range(0, len(log), SIZE):
        part = log[begin : begin + SIZE]
        times = np.tile(part.time, 3).astype(np.int64)
        nodes = np.concatenate([part.src, part.dst, other[begin : begin + SIZE]]).astype(np.int64)
        found.append((nodes, times, np.searchsorted(log.time, times, "left").astype(np.int64)))
    return found


def _settled(device: torch.device, work: Callable[[], object]) -> Callable[[], object]:
    """Return the work, followed by waiting for the device."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def _module(loop: Loop) -> torch.nn.Module:
    assert isinstance(loop.model, torch.nn.Module)
    return loop.model


def _figures(timing: Mapping[str, Timing], name: str, amount: float) -> dict[str, dict[str, float | str]]:
    return {who: {name: amount / t.wall_s, "wall_s": t.wall_s, "cpu_s": t.cpu_s} for who, t in timing.items()}


def _result(
    claim: str,
    timing: Mapping[str, Timing],
    baseline: Mapping[str, Mapping[str, float | str]],
    quality: Mapping[str, float | str],
) -> Result:
    """Set the first contestant against the fastest of the others."""
    ours, *others = (one.wall_s for one in timing.values())
    return Result(claim, min(others) / ours, baseline, quality, [0])
