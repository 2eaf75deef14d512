"""Small models on mnist: a study against a plain loop and Optuna with joblib, and when its first scores come."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch

from benchmarks.harness import Claim, Result

EPOCHS = 5
_WHAT = "MLPs 784-64-10 with SGD on 10,000 rows of mnist, batch 64, 5 epochs, 2 cores, wall time with all start-up, "
CLAIMS = [
    Claim(
        "select_mlps_plain_16", f"16 {_WHAT}fused on 1 or 2 workers against a plain loop on 1 or 2 threads", 2.0, "x"
    ),
    Claim("select_mlps_plain_64", f"64 {_WHAT}fused on 1 or 2 workers against a plain loop on 1 thread", 2.0, "x"),
    Claim("select_mlps_optuna_64", f"64 {_WHAT}against Optuna's grid with joblib on 2 processes", 1.5, "x"),
    Claim(
        "select_first_metric",
        f"16 {_WHAT}4 partitions, not fused, one process: time until every configuration has a first score on the same "
        "validation slice, over a quarter of the first epoch's time",
        1.1,
        "x",
        "<=",
    ),
    Claim(
        "select_same_winner",
        f"16 {_WHAT}accuracy that the study's winner lacks of exhaustive training's",
        0.5,
        "%",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run every contestant once in turn."""
    rows = 2_000 if quick else 10_000
    results = [_against_plain(16, rows)]
    if not quick:
        results.append(_against_plain(64, rows))
    return [*results, *_against_optuna("16 MLPs" if quick else "64 MLPs", rows), *_first(rows)]


def _against_plain(count: int, rows: int) -> Result:
    from benchmarks.peers import select_peers as peers

    grid = peers.GRIDS[f"{count} MLPs"]
    peers.mnist(rows)
    peers.plain(grid, 200, 1)
    works = {
        "plain loop, 1 thread": lambda: peers.plain(grid, rows, EPOCHS, 1),
        "plain loop, 2 threads": lambda: peers.plain(grid, rows, EPOCHS, 2),
        "study, 1 worker, fused": lambda: peers.ours(grid, rows, EPOCHS, 1, 16),
        "study, 1 worker, 2 threads, fused": lambda: peers.ours(grid, rows, EPOCHS, 1, 16, 2),
        "study, 2 workers, fused": lambda: peers.ours(grid, rows, EPOCHS, 2, 16),
        "study, 2 workers, unfused": lambda: peers.ours(grid, rows, EPOCHS, 2, 0),
    }
    if count > 16:  # what loses at 16 is left out at 64, so that the claim ends in minutes
        works = {name: work for name, work in works.items() if "plain loop, 2" not in name and "unfused" not in name}
    taken: dict[str, dict[str, float | str]] = {name: {"wall_s": peers.seconds(work)} for name, work in works.items()}
    torch.set_num_threads(2)
    plain = min(float(taken[name]["wall_s"]) for name in taken if name.startswith("plain"))
    mine = min(float(taken[name]["wall_s"]) for name in taken if name.startswith("study") and "unfused" not in name)
    why = "products forward and backward bound it, with saving states and scoring beside them"
    return Result(f"select_mlps_plain_{count}", plain / mine, taken, why=why)


def _against_optuna(name: str, rows: int) -> list[Result]:
    from benchmarks.peers import select_peers as peers

    if importlib.util.find_spec("optuna") is None or importlib.util.find_spec("joblib") is None:
        return []
    grid = peers.GRIDS[name]
    mine = peers.seconds(lambda: peers.ours(grid, rows, EPOCHS, 2, 16))
    other = peers.seconds(lambda: peers.optuna_joblib(grid, rows, EPOCHS))
    figures = {"study": {"wall_s": mine}, "Optuna + joblib": {"wall_s": other}}
    why = "both keep two cores busy with the same products"
    return [Result("select_mlps_optuna_64", other / mine, figures, why=why)]


def _first(rows: int) -> list[Result]:
    from benchmarks.peers import select_peers as peers

    grid = peers.GRIDS["16 MLPs"]
    peers.ours(grid, 200, 1)  # imports that torch puts off
    with tempfile.TemporaryDirectory() as folder:
        study = peers.study_of(grid, rows, EPOCHS, Path(folder), 1, 0, 1, early=True)
        spans = study.records.spans
        begin = spans[0].begin
        first = max(min(score.at_s for score in one.peeks) for one in study.configs) - begin
        whole = max(span.end for span in spans if span.epoch == 0) - begin
        best = float(study.ranked()[0].value or 0.0)
    alone = max(peers.plain(grid, rows, EPOCHS))
    quality = {"first_s": first, "epoch_s": whole}
    return [
        Result("select_first_metric", first / (whole / 4), quality=quality),
        Result("select_same_winner", 100 * (alone - best), quality={"study": best, "exhaustive": alone}, seeds=(0,)),
    ]
