"""Node memory larger than its budget: private memory under the kernel's own limit, speed, and bytes by policy."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Claim, Result
from benchmarks.private_memory import limited

if TYPE_CHECKING:
    from stepwell.core.batch import Batch

BUDGET, TIER = 256 << 20, 48 << 20
_SOURCES, _DESTINATIONS, _WIDTH, _EVENTS, _BATCH = 1_500_000, 500_000, 100, 500_000, 200
_NODES = _SOURCES + _DESTINATIONS
_BLOCK = 50_000
_DATA = (
    "TGN with memory and pending features 100 wide each, trained for 200 batches of 200 events at the end of 0.5 M "
    "generated events between 2 M nodes of skewed degrees, 1.6 GB of node state filled beforehand"
)

CLAIMS = [
    Claim(
        "stored_memory_private",
        f"{_DATA}, out of core with LRU in 48 MiB: peak private memory above that of the loaded stream and its index, "
        "model and batches included, under RLIMIT_DATA of that budget",
        float(BUDGET),
        "bytes",
        "<=",
    ),
    Claim(
        "stored_memory_speed",
        f"{_DATA}: events per second (median batch, sampling included) out of core with LRU in 48 MiB, against the "
        "same training in core; the file's page cache empty at the start",
        0.5,
        "x",
    ),
    Claim(
        "stored_memory_planned",
        f"{_DATA}: bytes that LRU reads and writes, per byte that Belady's rule on the foreseen epoch does, both with "
        "48 MiB; same losses",
        1.1,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Train in three fresh processes; a quick run takes a tenth of the batches."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        _generate(Path(folder))
        found = {name: _run(Path(folder), name, 20 if quick else 200) for name in ("in_core", "lru", "belady")}
    losses = {one.pop("loss") for one in found.values()}
    if len(losses) != 1:
        raise RuntimeError(f"the losses differ: {losses}")
    lru, planned = found["lru"], found["belady"]
    peak = lru["peak_bytes"]
    speed = lru["events_per_s"] / found["in_core"]["events_per_s"]
    moved = [one["read_bytes"] + one["written_bytes"] for one in (lru, planned)]
    quality = {"mean_loss": losses.pop(), "largest_difference_of_losses": 0.0}
    cold = "The file is smaller than this machine's page cache, so a row read twice comes from the disk once."
    saved = moved[0] / moved[1]
    few = "" if saved >= 1.1 else f"In this stream LRU moves {saved:.2f} times the bytes: most rows are read once."
    shown = {name: dict(one) for name, one in found.items()}
    return [
        Result("stored_memory_private", peak, shown, quality, (0,), "" if peak <= BUDGET else "Over budget."),
        Result("stored_memory_speed", speed, shown, quality, (0,), cold),
        Result("stored_memory_planned", saved, shown, quality, (0,), few),
    ]


def _generate(folder: Path) -> None:
    """Write a stream with power-law degrees, and the state that it meets: one block of rows again and again."""
    rng = np.random.default_rng(0)
    np.save(folder / "src.npy", (_SOURCES * rng.random(_EVENTS) ** 3).astype(np.int64))
    np.save(folder / "dst.npy", (_SOURCES + _DESTINATIONS * rng.random(_EVENTS) ** 2).astype(np.int64))
    np.save(folder / "time.npy", np.sort(rng.integers(_EVENTS, 10 * _EVENTS, _EVENTS)))
    np.save(folder / "feature.npy", rng.standard_normal((_EVENTS, _WIDTH), np.float32))
    partner = np.where(
        np.arange(_NODES) < _SOURCES,
        _SOURCES + _DESTINATIONS * rng.random(_NODES) ** 2,
        _SOURCES * rng.random(_NODES) ** 3,
    )
    np.save(folder / "pending_partner.npy", partner.astype(np.int64))
    time = np.sort(rng.integers(0, _EVENTS, (2, _BLOCK)), 0)
    for name, block in (
        *(("last_update", time[0]), ("pending_time", time[1])),
        *((name, rng.standard_normal((_BLOCK, _WIDTH), np.float32)) for name in ("memory", "pending_feature")),
    ):
        shape = (_NODES, *block.shape[1:])
        rows = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", block.dtype, shape)
        for begin in range(0, _NODES, _BLOCK):
            rows[begin : begin + _BLOCK] = block


def _run(folder: Path, name: str, batches: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.claims.stored_memory", str(folder), name, str(batches)]
    # Reserved and unused memory counts under the limit as well, so there are few arenas and stacks.
    threads = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if done.returncode:
        raise RuntimeError(f"the limited training failed: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def train(folder: Path, name: str, batches: int) -> dict[str, float]:
    """Train in this process, under the limit if out of core, and return what it took."""
    from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
    from stepwell.buffer.policy import policies
    from stepwell.nn import TGN, OutOfCore, trace_memory
    from stepwell.storage import EventLog

    threading.stack_size(512 << 10)
    torch.manual_seed(0)
    log = EventLog.from_arrays(
        *(np.load(folder / f"{column}.npy") for column in ("src", "dst", "time")),
        features=np.load(folder / "feature.npy", mmap_mode="r"),
        num_nodes=_NODES,
    )

    events = log[-batches * _BATCH :]
    negatives, sampler = UniformNegatives(1), Recent(10)
    stream = Pipeline(events, FixedBatches(_BATCH), negatives=negatives, sampler=sampler, prefetch=0)
    store = None if name == "in_core" else OutOfCore(folder / name, policies[name](memory=TIER))
    with tempfile.TemporaryDirectory() as other:
        small = None if store is None else OutOfCore(other, policies["lru"](memory=1 << 20))
        warm = TGN(_NODES, _WIDTH, store=small)
        _steps(warm, islice(stream.epoch(0), 8))
        del warm, small
    with limited(None if store is None else BUDGET) as peak:
        model = TGN(_NODES, _WIDTH, store=store)
        stored = model.memory.stored
        _fill(model, folder)
        before = None if stored is None else stored.traffic
        planned = time.perf_counter()
        if stored is not None and name != "lru":
            partner = model.memory.pending_partner.numpy()
            stored.foresee(trace_memory(stream.epoch(0), _NODES, stored.row_bytes, partner))
        planned = time.perf_counter() - planned
        wall, cpu = time.perf_counter(), time.process_time()
        losses, seconds = _steps(model, stream.epoch(0))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = {
        **{"loss": statistics.mean(losses), "events_per_s": _BATCH / statistics.median(seconds)},
        **{"wall_s": wall, "cpu_s": cpu, "peak_bytes": float(peak.bytes)},
    }
    if stored is None or before is None:
        return found
    after = stored.traffic
    return {
        **found,
        "state_bytes": float(_NODES * stored.row_bytes),
        **{"tier_bytes": after.tier_bytes, "limit_bytes": BUDGET, "planning_s": planned},
        "hit_rate": after.hits / (after.hits + after.misses),
        "read_bytes": after.read_bytes - before.read_bytes,
        "written_bytes": after.written_bytes - before.written_bytes,
    }


def _steps(model: torch.nn.Module, batches: Iterable[Batch]) -> tuple[list[float], list[float]]:
    """Train and return the losses, and the wall seconds of each batch."""
    from stepwell.train import link_loss

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    torch.manual_seed(1)
    losses, seconds, begin = [], [], time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = link_loss(model, batch)  # type: ignore[arg-type]
        loss.backward()  # type: ignore[no-untyped-call]
        model.observe(batch)  # type: ignore[operator]
        optimizer.step()
        losses.append(float(loss.detach()))
        now = time.perf_counter()
        seconds.append(now - begin)
        begin = now
    return losses, seconds


def _fill(model: torch.nn.Module, folder: Path) -> None:
    """Give the memory the generated state, and empty the page cache of its file."""
    from stepwell.nn.memory import NodeMemory
    from stepwell.nn.stored_memory import NodeState

    memory = model.memory
    if not isinstance(memory, NodeMemory):
        raise TypeError("no node memory")
    memory.restore(NodeState(*(torch.from_numpy(column) for column in _columns(folder, NodeState._fields))))
    if memory.stored is not None:
        with memory.stored.path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _columns(folder: Path, names: tuple[str, ...]) -> Iterator[npt.NDArray[np.generic]]:
    for name in names:
        # Written by nobody; torch wants to be able to. Pages are shared with the file, so they are not private.
        yield np.load(folder / f"{name}.npy", mmap_mode="r+")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))) + os.linesep)
