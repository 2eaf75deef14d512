"""What the claims about dense loading share: rounds of all contestants, medians, and checks of what is compared."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.peers.dense import measure_once

BATCH = 256
PEERS = (
    *("torch", "torch-2", "torch-index", "torch-index-2"),
    *("datasets-torch", "datasets-numpy", "datasets-buffer", "webdataset", "webdataset-2"),
)
QUICK_PEERS = ("torch", "torch-index", "datasets-numpy")
SHUFFLE = {
    "stepwell": "exact; resumes in mid-epoch",
    "torch": "exact; no resume in mid-epoch",
    "datasets-torch": "exact; no resume in mid-epoch",
    "datasets-numpy": "exact; no resume in mid-epoch",
    "datasets-buffer": "within 10,000 rows; resume skips rows and loses the buffer",
    "webdataset": "within 10,000 rows; no resume in mid-epoch",
}
MOSAIC = (
    "mosaicml-streaming could not take part: it imports torchvision, whose package-index build does not load with the "
    "CPU build of torch."
)
HAND_WRITTEN = (
    "It leaves its loader nothing to do: a sampler of index tensors and one gather an array are written by hand, and a "
    "gather of the rows is what any loader must do, so there is little below it. "
)
Figures = Mapping[str, float | str]


def compare(
    folder: Path, own: Sequence[str], *, quick: bool, seconds: float, limit: int = 0
) -> dict[str, dict[str, float | str]]:
    """Run all contestants in turn, each run in a process of its own, forwards and backwards; return medians."""
    names = [*own, *(QUICK_PEERS if quick else PEERS)]
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for turn in range(1 if quick else 3):
        for name in names if turn % 2 == 0 else names[::-1]:
            run = measure_once(folder, name, batch=BATCH, seconds=0.5 if quick else seconds, limit=limit)
            found[name].append(run)
    return {name: _median(name, runs) for name, runs in found.items()}


def _median(name: str, runs: Sequence[Figures]) -> dict[str, float | str]:
    kind = next((text for known, text in SHUFFLE.items() if name == known), "")
    kind = kind or next((text for known, text in SHUFFLE.items() if name.startswith(known)), "")
    failed = [str(run["failed"]) for run in runs if "failed" in run]
    if failed:
        return {"failed": failed[0], "shuffle": kind}
    names = [key for key, value in runs[0].items() if not isinstance(value, str)]
    medians: dict[str, float | str] = {key: statistics.median(float(run[key]) for run in runs) for key in names}
    return {**medians, "shuffle": kind}


def best_peer(figures: Mapping[str, Figures], *, by_hand: bool = True) -> tuple[str, float]:
    """Return the fastest contestant that is not ours, and its rows a second.

    Args:
        figures: Those of all contestants.
        by_hand: Whether `torch-index` counts, whose loader passes on what a hand-written sampler and gather do.
    """
    rates = {
        name: float(figure["rows_per_s"])
        for name, figure in figures.items()
        if not name.startswith("stepwell") and "failed" not in figure and (by_hand or "index" not in name)
    }
    name = max(rates, key=lambda one: rates[one])
    return name, rates[name]


def ratios(figures: Mapping[str, Figures], own: str) -> dict[str, float | str]:
    """Return how many times faster `own` is than each peer, in wall and in CPU seconds."""
    mine = figures[own]
    found: dict[str, float | str] = {}
    for name, figure in figures.items():
        if name.startswith("stepwell") or "failed" in figure:
            continue
        for unit in ("rows_per_s", "rows_per_cpu_s"):
            found[f"{own} / {name}, {unit}"] = round(float(mine[unit]) / max(1e-9, float(figure[unit])), 2)
    return found


def two_results(
    claim: str, own: float, figures: Mapping[str, Figures], quality: Mapping[str, float | str]
) -> list[Result]:
    """Return the result against the best of all, and that against loaders that shuffle and batch themselves.

    A hand-written index sampler and gather inside `DataLoader` is its best setting, so it counts in the first.
    """
    failed = [f"{name} ({figure['failed']})" for name, figure in figures.items() if "failed" in figure]
    note = MOSAIC + (f" Failed under the limit: {'; '.join(failed)}." if failed else "")
    results = []
    for name, by_hand in ((claim, True), (f"{claim}_own_shuffle", False)):
        peer, rate = best_peer(figures, by_hand=by_hand)
        floor = HAND_WRITTEN if "index" in peer else ""
        results.append(Result(name, own / rate, figures, quality, [0], f"Best peer: {peer}. {floor}{note}"))
    return results


def check_shuffle_and_resume(folder: Path) -> dict[str, float | str]:
    """Verify on the benchmark's own table that an epoch holds each row once and that resuming gives its rest."""
    import numpy as np

    import stepwell as sw
    from stepwell.access.dense import Permutation

    table = sw.open(folder / "lake").table("rows")
    order = Permutation(len(table), 0, 1)
    seen = np.zeros(len(table), np.bool_)
    for begin in range(0, len(table), 1 << 20):
        seen[order[begin : begin + (1 << 20)]] = True
    cuts = sw.Shuffled(BATCH).cuts_between(len(table), 1, 0, 40)
    label = table.schema.names[-1]
    rest = sw.Pipeline(table.row_index.select((label,)), sw.Shuffled(BATCH)).epoch(1, start=20)
    labels = [batch[label].tolist() for _, batch in zip(range(20), rest, strict=False)]
    expected = [table.row_index.take(cut.rows)[label].tolist() for cut in cuts[20:]]
    same = labels == expected[: len(labels)]
    return {"rows seen in one epoch": float(seen.mean()), "resumed epoch equals its rest": "yes" if same else "no"}
