"""The index of a stream larger than its memory budget: time and private memory, held under the kernel's own limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Claim, Result
from benchmarks.private_memory import limited

BUDGET = 1 << 30
NUM_EVENTS = 50_000_000
_NUM_SOURCES, _NUM_DESTINATIONS = 1_500_000, 500_000
_DATA = "T-CSR of 50 M generated events (2 M nodes, skewed degrees) built out of memory, checksums and flush included"

CLAIMS = [
    Claim(
        "tcsr_build_rate",
        f"{_DATA}, events per second of wall time with 2 threads; median of the runs",
        5e6,
        "events/s",
    ),
    Claim(
        "tcsr_build_memory",
        f"{_DATA}: peak private memory above the interpreter's, under RLIMIT_DATA of that budget",
        float(BUDGET),
        "bytes",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Build the index in fresh processes under the limit; a quick run takes a tenth of the events, once."""
    num_events, runs = (NUM_EVENTS // 10, 1) if quick else (NUM_EVENTS, 5)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        _generate(Path(folder), num_events)
        found = [_run(Path(folder), f"index{run}") for run in range(runs)]
    walls = sorted(float(one["wall_s"]) for one in found)
    rate = num_events / walls[len(walls) // 2]
    peak = max(one["peak_bytes"] for one in found)
    cpu_s = sorted(one["cpu_s"] for one in found)[len(found) // 2]
    ours: dict[str, float | str] = {
        "events": num_events,
        "wall_s": walls[len(walls) // 2],
        "slowest_wall_s": walls[-1],
        "cpu_s": cpu_s,
        "events_per_cpu_s": num_events / cpu_s,
        "peak_private_bytes": peak,
        "limit_bytes": BUDGET,
        "index_bytes": found[0]["index_bytes"],
    }
    quality = {"checked": "all degrees, and the rows of 1,000 random nodes, against the events"}
    slow = f"The build took {cpu_s:.1f} CPU-seconds on 2 cores that others were using as well; see the load average."
    return [
        Result("tcsr_build_rate", rate, {"stepwell": ours}, quality, seeds=(0,), why="" if rate >= 5e6 else slow),
        Result(
            "tcsr_build_memory",
            peak,
            {"stepwell": ours},
            quality,
            seeds=(0,),
            why="" if peak <= BUDGET else "Over budget.",
        ),
    ]


def _generate(folder: Path, num_events: int) -> None:
    """Write sorted columns; sources and destinations have power-law degrees."""
    rng = np.random.default_rng(0)
    kinds = {"src": np.int32, "dst": np.int32, "time": np.int64}
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(kind), (num_events,))
        for name, kind in kinds.items()
    }
    for begin in range(0, num_events, 1 << 22):
        size = min(num_events - begin, 1 << 22)
        window = np.s_[begin : begin + size]
        arrays["src"][window] = _NUM_SOURCES * rng.random(size) ** 3
        arrays["dst"][window] = _NUM_SOURCES + _NUM_DESTINATIONS * rng.random(size) ** 2
        arrays["time"][window] = 10 * begin + np.sort(rng.integers(0, 10 * size, size))


def _run(folder: Path, name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.claims.tcsr_build", str(folder), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the limited build failed: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def build_limited(folder: Path, name: str) -> dict[str, float]:
    """Build the index under RLIMIT_DATA in this process, check it, and return what it took."""
    from stepwell.storage import TemporalCSR

    columns = [np.load(folder / f"{column}.npy", mmap_mode="r") for column in ("src", "dst", "time")]
    num_nodes = _NUM_SOURCES + _NUM_DESTINATIONS
    TemporalCSR.build(
        folder / f"{name}-warm", *(column[:1000] for column in columns), num_nodes=num_nodes, budget=BUDGET
    )
    with limited(BUDGET) as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        index = TemporalCSR.build(folder / name, *columns, num_nodes=num_nodes, budget=BUDGET)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _check(index, columns, num_nodes)
    found = {"wall_s": wall, "cpu_s": cpu, "peak_bytes": float(peak.bytes), "index_bytes": float(index.size_bytes)}
    for part in (folder / name, folder / f"{name}-warm"):
        for file in part.iterdir():
            file.unlink()
    return found


def _check(index: object, columns: list[npt.NDArray[np.generic]], num_nodes: int) -> None:
    """Compare all degrees, and the rows of 1,000 nodes, with what a scan of the events says."""
    indptr, event, neighbor = index.indptr, index.event, index.neighbor  # type: ignore[attr-defined]
    src, dst, _ = columns
    degree = np.bincount(src, minlength=num_nodes) + np.bincount(dst, minlength=num_nodes)
    if not np.array_equal(np.diff(indptr), degree):
        raise RuntimeError("wrong degrees")
    for node in np.random.default_rng(1).integers(0, num_nodes, 1000):
        row = event[indptr[node] : indptr[node + 1]]
        other = np.where(src[row] == node, dst[row], src[row])
        touches = (src[row] == node) | (dst[row] == node)
        ascending = bool((np.diff(row) > 0).all())
        if not (ascending and touches.all() and np.array_equal(other, neighbor[indptr[node] : indptr[node + 1]])):
            raise RuntimeError(f"wrong row {node}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(build_limited(Path(sys.argv[1]), sys.argv[2])) + os.linesep)
