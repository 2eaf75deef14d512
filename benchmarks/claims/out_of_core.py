"""Features four times larger than the memory of the whole process, which a control group enforces."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Claim, Result
from benchmarks.limits import Group, drop_cached, memory_group

_WHAT = (
    "one epoch of 1-hop TGAT (k=10, batch 600, width 172, uniform negatives) over a fixed slice of 504,000 events, "
    "20 equidistant blocks that span a generated 8 GiB feature file, in 2 GiB for the whole process, page cache "
    "included (control group), planning counted, the worse of recent and uniform sampling: "
)
CLAIMS = [
    Claim("out_of_core_vs_memory", _WHAT + "time against all features in memory without a limit", 1.3, "x", "<="),
    Claim(
        "out_of_core_vs_mmap",
        _WHAT + "speed against a memory-mapped tensor with the best of three pieces of advice, same limit",
        4.0,
        "x",
    ),
    Claim(
        "out_of_core_vs_pread_lru",
        _WHAT + "speed against 16 threads of pread with an LRU cache of the same size, same limit",
        1.5,
        "x",
    ),
    Claim("out_of_core_peak_memory", _WHAT + "peak memory of the group", 2.0, "GiB", "<="),
]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """How large everything is.

    Args:
        size_bytes: Of the feature file.
        limit_bytes: Of the process.
        room: For rows in memory, ours and the LRU cache's.
        nodes: Nodes of the stream.
        blocks: Blocks of the slice.
        batches: Batches of a block.
        every: Memory-mapped contestants and the one in memory run every so many-th batch: (mapped, in memory).
        stop_s: No contestant but ours runs longer.
        rounds: How often ours and the one in memory run; the others run in the first round only.
        samplers: Who is measured.
        mapped: The memory-mapped contestants.
    """

    size_bytes: int
    limit_bytes: int
    room: str
    nodes: int
    blocks: int
    batches: int
    every: tuple[int, int]
    stop_s: float
    rounds: int
    samplers: tuple[str, ...] = ("recent", "uniform")
    mapped: tuple[str, ...] = ("mmap normal", "mmap random", "mmap willneed")


# With 900 MiB for rows, those, the plan and the libraries left no room for the mapped index, which then thrashed.
# Between 300 and 600 MiB nothing differed by more than two runs of one setting do.
FULL = Setting(8 << 30, 2 << 30, "450MiB", 100_000, 20, 42, (40, 4), 60.0, 3)
# What Python and PyTorch take sets the small limit.
QUICK = Setting(
    256 << 20, 900 << 20, "24MiB", 3_000, 4, 3, (3, 1), 4.0, 1, ("uniform",), ("mmap random", "mmap willneed")
)


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run every contestant in a process of its own, nothing of the files in the page cache before each."""
    setting = QUICK if quick else FULL
    with _scratch(setting) as folder:
        rates = _rates(folder)
        runs: dict[str, list[Figures]] = {}
        for number in range(setting.rounds):
            others = () if number else ("pread lru", *setting.mapped)
            for sampler in setting.samplers:
                for contestant in ("in memory", "stepwell", *others):
                    run = _run(setting, folder, contestant, sampler)
                    runs.setdefault(f"{contestant}, {sampler}", []).append(run)
    figures = {name: _middle(found) for name, found in runs.items()}
    per_batch = {name: f["batch_s"] for name, f in figures.items()}
    versus_memory = max(per_batch[f"stepwell, {s}"] / per_batch[f"in memory, {s}"] for s in setting.samplers)
    versus_lru = min(per_batch[f"pread lru, {s}"] / per_batch[f"stepwell, {s}"] for s in setting.samplers)
    versus_mapped = min(
        min(per_batch[f"{m}, {s}"] for m in setting.mapped) / per_batch[f"stepwell, {s}"] for s in setting.samplers
    )
    peak = max(run["group_peak_bytes"] for s in setting.samplers for run in runs[f"stepwell, {s}"]) / 2**30
    every = {
        f"{name}, ms a batch, every run": ", ".join(f"{run['batch_s'] * 1e3:.1f}" for run in found)
        for name, found in runs.items()
    }
    quality: dict[str, float | str] = {**rates, **_limits(setting, figures, rates), **every, "how": _how(setting)}
    measured = dict(zip((c.name for c in CLAIMS), (versus_memory, versus_mapped, versus_lru, peak), strict=True))
    return [
        Result(
            claim.name, measured[claim.name], figures, quality, seeds=(0,), why=_why(setting, claim, measured, figures)
        )
        for claim in CLAIMS
    ]


def _middle(runs: list[Figures]) -> Figures:
    """Return the run of median speed."""
    return sorted(runs, key=lambda run: run["batch_s"])[len(runs) // 2]


def _how(setting: Setting) -> str:
    mapped, resident = setting.every
    return (
        f"Memory-mapped contestants ran every {mapped}-th batch and the one in memory (columns and index read "
        f"beforehand) every {resident}-th, spread over the slice; nobody but ours ran longer than "
        f"{setting.stop_s:g} s. Who was stopped is judged by the later half of its batches, its cache full. "
        f"{setting.room} for rows in memory, ours and the LRU cache's; all use the same pipeline, two batches ahead. "
        f"Ours and the one in memory ran {setting.rounds} times, in turns, and the run of median speed counts; the "
        "others, whose distance is large, once. OpenMP threads sleep while they wait (OMP_WAIT_POLICY=passive), which "
        "made the one in memory faster too."
    )


def _why(setting: Setting, claim: Claim, measured: Mapping[str, float], figures: Mapping[str, Figures]) -> str:
    if claim.holds(measured[claim.name]):
        return ""
    ours = {s: figures[f"stepwell, {s}"] for s in setting.samplers}
    parts = [
        f"{s}: {f['batch_s'] * 1e3:.0f} ms a batch, of it {f['plan_s'] / f['batches'] * 1e3:.0f} ms planning and "
        f"{f['Gather s'] / f['batches'] * 1e3:.0f} ms of reading behind the step, which takes "
        f"{figures[f'in memory, {s}']['batch_s'] * 1e3:.0f} ms with all features in memory"
        for s, f in ours.items()
    ]
    return "Ours is bound by the step and the reads that share its cores; " + "; ".join(parts) + "."


def _limits(setting: Setting, figures: Mapping[str, Figures], rates: Mapping[str, float]) -> Mapping[str, float]:
    """Return the time that the bytes we read would take at the disk's two rates."""
    found = {}
    for sampler in setting.samplers:
        read = figures[f"stepwell, {sampler}"]["read_bytes"]
        found[f"read, {sampler}, at the sequential rate, s"] = read / rates["sequential bytes/s"]
        found[f"read, {sampler}, at the random rate, s"] = read / rates["random 4 KiB bytes/s"]
    return found


def _run(setting: Setting, folder: Path, contestant: str, sampler: str) -> Figures:
    resident = contestant == "in memory"
    every = setting.every[0] if contestant in setting.mapped else setting.every[1] if resident else 1
    drop_cached(folder)
    command = [
        "env",
        "OMP_WAIT_POLICY=passive",
        sys.executable,
        "-m",
        "benchmarks.peers.out_of_core",
        contestant,
        sampler,
        str(folder),
    ]
    command += ["--blocks", str(setting.blocks), "--batches", str(setting.batches), "--every", str(every)]
    command += ["--room", setting.room, "--stop", "0" if contestant == "stepwell" else str(setting.stop_s)]
    limit = 1 << 50 if resident else setting.limit_bytes
    with memory_group(limit) as group:
        figures = _figures(group, command)
        return figures | {"group_peak_bytes": float(group.peak_bytes)}


def _figures(group: Group, command: list[str]) -> Figures:
    done = group.run(command, 1200.0)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[5:7])} failed ({done.returncode}): {done.stderr[-2000:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _scratch(setting: Setting) -> Iterator[Path]:
    """Generate the stream in a folder of the temporary directory, which is removed."""
    needed, place = setting.size_bytes * 5 // 4, tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(f"{place} has {free >> 20} MiB free, {needed >> 20} are needed: set TMPDIR to a larger disk.")
    with tempfile.TemporaryDirectory(prefix="stepwell-out-of-core-") as folder:
        from benchmarks.peers.out_of_core import generate

        generate(Path(folder), setting.size_bytes, setting.nodes)
        yield Path(folder)


def _rates(folder: Path) -> dict[str, float]:
    """Measure the device: 1 MiB reads in order and 4 KiB reads at random places, past the page cache."""
    from benchmarks.peers.out_of_core import device_rates

    return device_rates(folder / "feature.npy")
