"""Small models on mnist: a study against Ray Tune, as it is shipped and at its best."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from benchmarks.harness import Claim, Result

EPOCHS = 5
_BEST = "against Ray Tune FIFO at its best (actors used again, data in its store), Ray itself already started"
_MLPS = f"MLPs 784-64-10 with SGD on 10,000 rows of mnist, batch 64, {EPOCHS} epochs, 2 cores, wall time"
CLAIMS = [
    Claim("select_mlps_ray_16", f"16 {_MLPS}, the study fused, {_BEST}", 2.0, "x"),
    Claim("select_mlps_ray_64", f"64 {_MLPS}, the study fused, {_BEST}", 2.0, "x"),
    Claim(
        "select_cnns_ray",
        f"16 networks of two convolutions (4 or 8 channels) on 6,000 rows of mnist, batch 64, {EPOCHS} epochs, 2 "
        f"workers, wall time, {_BEST}",
        1.0,
        "x",
    ),
    Claim(
        "select_short_ray",
        "8 of these MLPs on 1,000 rows, 1 epoch (far under a second each), against Ray Tune as shipped (a fresh actor "
        "a trial), Ray itself already started",
        10.0,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run every contestant once in turn; `quick` on fewer rows, without the 64 and without the networks."""
    if find_spec("ray") is None:
        sys.exit("this claim compares with Ray Tune; install it beside Stepwell: pip install 'ray[tune]'")
    from benchmarks.peers import select_peers as peers

    rows = 2_000 if quick else 10_000
    peers.mnist(rows)
    peers.ours(peers.GRIDS["8 MLPs"], 200, 1)  # imports that torch puts off
    peers.ray_tune(peers.GRIDS["8 MLPs"], 200, 1, asha=False, reuse=True)  # starts Ray and its workers
    results = [_short(), _fused("16 MLPs", "select_mlps_ray_16", rows)]
    if not quick:
        results += [_fused("64 MLPs", "select_mlps_ray_64", rows), _networks(6_000)]
    return results


def _short() -> Result:
    from benchmarks.peers import select_peers as peers

    grid = peers.GRIDS["8 MLPs"]
    short = peers.seconds(lambda: peers.ours(grid, 1_000, 1))
    fresh = peers.seconds(lambda: peers.ray_tune(grid, 1_000, 1, asha=False, reuse=False))
    figures = {"study, 1 worker": {"wall_s": short}, "Ray Tune as shipped": {"wall_s": fresh}}
    return Result("select_short_ray", fresh / short, figures, why="Ray had its actors started already")


def _fused(name: str, claim: str, rows: int) -> Result:
    from benchmarks.peers import select_peers as peers

    grid = peers.GRIDS[name]
    works = {
        "study, 1 worker, fused": lambda: peers.ours(grid, rows, EPOCHS, 1, 16),
        "study, 2 workers, fused": lambda: peers.ours(grid, rows, EPOCHS, 2, 16),
        "Ray Tune FIFO, reused actors": lambda: peers.ray_tune(grid, rows, EPOCHS, asha=False, reuse=True),
        "Ray Tune ASHA, reused actors (fewer epochs)": lambda: peers.ray_tune(
            grid, rows, EPOCHS, asha=True, reuse=True
        ),
    }
    taken, best = dict[str, dict[str, float | str]](), dict[str, float | str]()
    for label, work in works.items():
        found: list[float] = []
        taken[label] = {"wall_s": peers.seconds(lambda work=work, found=found: found.extend(work()))}  # type: ignore[misc]
        best[f"best accuracy, {label}"] = max(found)
    mine = min(float(taken[label]["wall_s"]) for label in taken if label.startswith("study"))
    ratio = float(taken["Ray Tune FIFO, reused actors"]["wall_s"]) / mine
    return Result(claim, ratio, taken, best, (0,), "both keep two cores busy with the same products")


def _networks(rows: int) -> Result:
    from benchmarks.peers import select_peers as peers

    grid = peers.GRIDS["16 CNNs"]
    found, taken = dict[str, list[float]](), dict[str, dict[str, float | str]]()
    for label, work in {
        "study, 2 workers": lambda: peers.ours(grid, rows, EPOCHS, 2, 0),
        "Ray Tune FIFO, reused actors": lambda: peers.ray_tune(grid, rows, EPOCHS, asha=False, reuse=True),
    }.items():
        taken[label] = {
            "wall_s": peers.seconds(lambda label=label, work=work: found.update({label: work()}))  # type: ignore[misc]
        }
    mine, other = (float(one["wall_s"]) for one in taken.values())
    quality: dict[str, float | str] = {f"best accuracy, {label}": max(values) for label, values in found.items()}
    return Result("select_cnns_ray", other / mine, taken, quality, (0,), "both train the same networks on two cores")
