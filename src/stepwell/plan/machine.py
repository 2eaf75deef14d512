"""What this machine can do, measured once in about a second and kept beside the other caches."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from stepwell.core import Draw, Machine
from stepwell.core.settings import settings
from stepwell.kernels import build_tcsr, gather_rows, recent_neighbors


def machine(*, refresh: bool = False) -> Machine:
    """Return the profile of this machine, measuring it if there is none yet for this thread count.

    Args:
        refresh: Measure again.
    """
    name = f"machine-{platform.machine()}-{torch.get_num_threads()}.json"
    path = settings().home / name
    if path.exists() and not refresh:
        try:
            return Machine(**json.loads(path.read_text()))
        except (TypeError, json.JSONDecodeError):
            path.unlink()
    profile = calibrate()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(asdict(profile)))
    os.replace(aside, path)
    return profile


def calibrate() -> Machine:
    """Measure bandwidths and rates, each as the best of a few short runs."""
    rows = Draw(0, "calibrate").integers(np.arange(20_000), 1, 300_000)[:, 0]
    table = np.ones((300_000, 64), np.float32)
    gather = _best(lambda: gather_rows(table, rows))
    rows_in, width = 600, 100
    a, b = torch.randn(rows_in, width), torch.randn(width, width)
    product = _best(lambda: torch.mm(a, b).relu_())
    ends = Draw(1, "calibrate").integers(np.arange(100_000), 2, 5_000)
    ticks = np.arange(len(ends))
    index = build_tcsr(ends[:, 0], ends[:, 1], ticks, 5_000)
    nodes, before = ends[-6_000:, 0], ticks[-6_000:]
    sample = _best(lambda: recent_neighbors(*index, nodes, before, before, 10))
    step = _best(_small_step())
    return Machine(
        gather_bytes_per_s=rows.size * 64 * 4 / gather,
        flops_per_s=2 * rows_in * width**2 / product,
        queries_per_s=len(nodes) / sample,
        step_overhead_s=step,
        threads=torch.get_num_threads(),
    )


def _small_step() -> Callable[[], object]:
    """Return a training step whose arithmetic is nothing: what is left is autograd and the optimiser."""
    layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(10)))
    optimizer = torch.optim.Adam(layers.parameters(), fused=True)
    rows = torch.randn(8, 8)

    def step() -> None:
        optimizer.zero_grad()
        layers(rows).sum().backward()
        optimizer.step()

    return step


def _best(work: Callable[[], object], runs: int = 7) -> float:
    work()
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
