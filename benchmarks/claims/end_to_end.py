"""From two dirty registers to a trained classifier, in one script, beside the same glued by hand."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Claim, Result
from stepwell.core.settings import settings

_WHAT = (
    "two dirty registers made of 3,000 rows of UCI Adult to a classifier of incomes: linked, checked, mended, labelled "
    "by rules, split, label issues weighed, selected, trained"
)
_GLUE = "pandas, linkage by blocks and scores, Snorkel, cleanlab and scikit-learn"
CLAIMS = [
    Claim("end_to_end", f"wall seconds of one script, imports included: {_WHAT}", 120.0, "s", "<="),
    Claim(
        "end_to_end_lines",
        f"lines of that script without blank ones, comments and its docstring: {_WHAT}",
        39.0,
        "lines",
        "<=",
    ),
    Claim(
        "end_to_end_accuracy",
        f"mean test accuracy against the incomes, which no rule reads, less that of {_GLUE} with the same rules and "
        f"classifier, three seeds of faults: {_WHAT}",
        -1.0,
        "points",
    ),
]
_PEERS = Path(__file__).parent.parent / "peers"
_NEEDED = ("pandas", "snorkel", "cleanlab", "sklearn")


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of one script: what it printed, its wall seconds, and its peak memory in MiB."""

    said: dict[str, object]
    wall_s: float
    peak_mib: float


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run both scripts in processes of their own, in turn; `quick` for one seed of faults."""
    from benchmarks.peers.end_to_end_rules import make_sources

    data = settings().data
    if data is None or not (data / "adult").is_dir():
        raise FileNotFoundError("STEPWELL_DATA must hold adult")
    seeds = (0,) if quick else (0, 1, 2)
    runs: dict[str, list[_Run]] = {"stepwell": [], "glue": [], "stepwell again": []}
    truths = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as lake:
            make_sources(data, Path(folder), seed=seed)
            runs["stepwell"].append(_run("end_to_end_ours.py", folder, lake))
            runs["glue"].append(_run("end_to_end_glue.py", folder))
            runs["stepwell again"].append(_run("end_to_end_ours.py", folder, lake))
            lines = (Path(folder) / "truth.csv").read_text().split()[1:]
            truths.append({(int(a), int(b)) for a, b in (line.split(",") for line in lines)})
    figures = {name: _figures(name, found, truths) for name, found in runs.items()}
    gap = float(figures["stepwell"]["accuracy %"]) - float(figures["glue"]["accuracy %"])
    trace = str(runs["stepwell"][0].said["where"])
    quality = {"where does a row come from? stepwell": trace[:800], "where does a row come from? glue": "no answer"}
    why = "" if gap >= -1.0 else "the labels of one-sided rules have weights that say little, and the choice keeps half"
    return [
        Result("end_to_end", float(figures["stepwell"]["wall_s"]), figures, quality, seeds),
        Result("end_to_end_lines", float(figures["stepwell"]["lines"]), figures, quality),
        Result("end_to_end_accuracy", gap, figures, quality, seeds, why),
    ]


def _figures(name: str, runs: list[_Run], truths: list[set[tuple[int, int]]]) -> dict[str, float | str]:
    scores = []
    for run, truth in zip(runs, truths, strict=True):
        pairs = {(int(a), int(b)) for a, b in run.said["pairs"]}  # type: ignore[attr-defined]
        scores.append(200 * len(pairs & truth) / (len(pairs) + len(truth)))
    return {
        "wall_s": round(statistics.median(run.wall_s for run in runs), 2),
        "peak_mib": round(max(run.peak_mib for run in runs)),
        "lines": _lines(_PEERS / f"end_to_end_{'glue' if name == 'glue' else 'ours'}.py"),
        "accuracy %": round(100 * statistics.mean(float(str(run.said["accuracy"])) for run in runs), 2),
        "scored": sum(int(str(run.said["scored"])) for run in runs),
        "taught": sum(int(str(run.said["taught"])) for run in runs),
        "linkage F1 %": round(statistics.mean(scores), 2),
    }


def _lines(path: Path) -> int:
    """Count lines of code, without the docstring."""
    text = path.read_text().split('"""', 2)[2]
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))


def _run(script: str, *words: str) -> _Run:
    """Run a script and measure it; `os.wait4` gives the peak memory of this child alone."""
    root = Path(__file__).parents[2]
    paths = [str(root), *(path for path in sys.path if path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as bad:
        child = subprocess.Popen([sys.executable, str(_PEERS / script), *words], stdout=out, stderr=bad, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        bad.seek(0)
        if child.returncode:
            hint = f"it needs {', '.join(_NEEDED)}: pip install them" if "No module" in (said := bad.read()) else ""
            raise RuntimeError(f"{script} failed. {hint}\n{said[-2000:]}")
        return _Run(json.loads(out.read().splitlines()[-1]), wall, usage.ru_maxrss / 1024)
