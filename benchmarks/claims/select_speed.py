"""Small models on mnist: a study against a plain loop, Optuna with joblib, and Ray Tune; and a study of a thousand."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness import Claim, Result
from stepwell.select import Integer, Study, StudySettings, Trainee, Uniform, search
from stepwell.select.log import read_log
from stepwell.select.space import Params

EPOCHS = 5
_WHAT = "MLPs 784-64-10 with SGD on 10,000 rows of mnist, batch 64, 5 epochs, 2 cores, wall time with all start-up, "
CLAIMS = [
    Claim(
        "select_mlps_plain_16", f"16 {_WHAT}fused on 1 or 2 workers against a plain loop on 1 or 2 threads", 2.0, "x"
    ),
    Claim("select_mlps_plain_64", f"64 {_WHAT}fused on 1 or 2 workers against a plain loop on 1 thread", 2.0, "x"),
    Claim("select_mlps_optuna_64", f"64 {_WHAT}against Optuna's grid with joblib on 2 processes", 1.5, "x"),
    Claim(
        "select_mlps_ray_64",
        f"64 {_WHAT}against Ray Tune FIFO at its best (reused actors, data in its store)",
        2.0,
        "x",
    ),
    Claim(
        "select_short_ray",
        "16 of these MLPs on 1,000 rows, 1 epoch (far under a second each), against Ray Tune as shipped (a fresh "
        "actor a trial), Ray itself already started",
        10.0,
        "x",
    ),
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
    Claim(
        "select_thousand",
        "1,000 configurations of tiny models (ASHA, 9 epochs at most), the process killed by signal 9 on the way and "
        "the study run again: configurations or results lost, plus 1 if its page takes 2 s or more to write",
        0.0,
        "",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run every contestant once in turn; a study of a thousand at the end."""
    rows = 2_000 if quick else 10_000
    results = [_against_plain(16, rows)]
    if not quick:
        results.append(_against_plain(64, rows))
    results += _against_others(64 if not quick else 16, rows, quick=quick)
    results += [*_first(rows), _thousand(200 if quick else 1_000)]
    return results


def _against_plain(count: int, rows: int) -> Result:
    from benchmarks.peers import select_peers as peers

    peers.mnist(rows)
    peers.plain(16, 200, 1)
    works = {
        "plain loop, 1 thread": lambda: peers.plain(count, rows, EPOCHS, 1),
        "plain loop, 2 threads": lambda: peers.plain(count, rows, EPOCHS, 2),
        "study, 1 worker, fused": lambda: peers.ours(count, rows, EPOCHS, 1, 16),
        "study, 2 workers, fused": lambda: peers.ours(count, rows, EPOCHS, 2, 16),
        "study, 2 workers, unfused": lambda: peers.ours(count, rows, EPOCHS, 2, 0),
    }
    if count > 16:  # what loses at 16 is left out at 64, so that the claim ends in minutes
        works = {name: work for name, work in works.items() if "2 threads" not in name and "unfused" not in name}
    taken: dict[str, dict[str, float | str]] = {name: {"wall_s": peers.seconds(work)} for name, work in works.items()}
    torch.set_num_threads(2)
    plain = min(float(taken[name]["wall_s"]) for name in taken if name.startswith("plain"))
    mine = min(float(taken[name]["wall_s"]) for name in taken if name.startswith("study") and "unfused" not in name)
    why = "the first layer's products bound it; one core does them no faster for many models than for one"
    return Result(f"select_mlps_plain_{count}", plain / mine, taken, why=why)


def _against_others(count: int, rows: int, *, quick: bool) -> list[Result]:
    from benchmarks.peers import select_peers as peers

    mine = peers.seconds(lambda: peers.ours(count, rows, EPOCHS, 1 if quick else 2, 16))
    results = []
    if importlib.util.find_spec("optuna") is not None:
        other = peers.seconds(lambda: peers.optuna_joblib(count, rows, EPOCHS))
        figures = {"study": {"wall_s": mine}, "Optuna + joblib": {"wall_s": other}}
        why = "both keep two cores busy with the same products"
        results.append(Result("select_mlps_optuna_64", other / mine, figures, why=why))
    if importlib.util.find_spec("ray") is not None:
        peers.ray_tune(16, 200, 1, asha=False, reuse=True)  # starts Ray
        best = peers.seconds(lambda: peers.ray_tune(count, rows, EPOCHS, asha=False, reuse=True))
        asha = peers.seconds(lambda: peers.ray_tune(count, rows, EPOCHS, asha=True, reuse=True))
        figures = {
            "study": {"wall_s": mine},
            "Ray Tune FIFO, reused actors": {"wall_s": best},
            "Ray Tune ASHA, reused actors (fewer epochs)": {"wall_s": asha},
        }
        why = "both keep two cores busy with the same products"
        results.append(Result("select_mlps_ray_64", best / mine, figures, why=why))
        short = peers.seconds(lambda: peers.ours(16, 1_000, 1))
        fresh = peers.seconds(lambda: peers.ray_tune(16, 1_000, 1, asha=False, reuse=False))
        figures = {"study, 1 worker": {"wall_s": short}, "Ray Tune as shipped": {"wall_s": fresh}}
        results.append(Result("select_short_ray", fresh / short, figures, why="Ray had its actors started already"))
    return results


def _first(rows: int) -> list[Result]:
    from benchmarks.peers import select_peers as peers

    peers.ours(16, 200, 1)  # imports that torch puts off
    with tempfile.TemporaryDirectory() as folder:
        study = peers.study_of(16, rows, EPOCHS, Path(folder), 1, 0, 1, early=True)
        spans = study.records.spans
        begin = spans[0].begin
        first = max(min(score.at_s for score in one.peeks) for one in study.configs) - begin
        whole = max(span.end for span in spans if span.epoch == 0) - begin
        best = float(study.ranked()[0].value or 0.0)
    alone = max(peers.plain(16, rows, EPOCHS))
    quality = {"first_s": first, "epoch_s": whole}
    return [
        Result("select_first_metric", first / (whole / 4), quality=quality),
        Result("select_same_winner", 100 * (alone - best), quality={"study": best, "exhaustive": alone}, seeds=(0,)),
    ]


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 512 rows with two classes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(512, 6, generator=draw)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def tiny(params: Params) -> Trainee:
    """Build a small MLP."""
    width = int(params["width"] or 1)
    model = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=float(params["lr"] or 0.0), momentum=0.9))


def thousand(folder: Path, count: int) -> Study:
    """Run the study of a thousand, or go on with it."""
    return search(
        {"lr": Uniform(1e-3, 1.0, log=True), "width": Integer(2, 16)},
        blobs(),
        tiny,
        searcher="asha",
        configs=count,
        epochs=9,
        folder=folder,
        settings=StudySettings(partitions=2, slices=1, early=False),
    )


def _thousand(count: int) -> Result:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        code = (
            "from pathlib import Path\nfrom benchmarks.claims.select_speed import thousand\n"
            f"thousand(Path({str(folder)!r}), {count})"
        )
        child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        while child.poll() is None and (not (folder / "log.jsonl").exists() or _size(folder) < 400 * count):
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = list(read_log(folder / "log.jsonl"))
        begin = time.perf_counter()
        study = thousand(folder, count)
        took = time.perf_counter() - begin
        after = list(read_log(folder / "log.jsonl"))
        lost = count - sum(not one.parent for one in study.configs) + (after[: len(before)] != before)
        begin = time.perf_counter()
        size = study.to_html().stat().st_size
        page = time.perf_counter() - begin
    quality = {
        **{
            "page_s": page,
            "page_mib": size / 2**20,
            "seconds_after_the_kill": took,
            "events_before_the_kill": len(before),
        },
        **{"units": len(study.records.spans), "configurations": len(study.configs)},
    }
    return Result("select_thousand", lost + (page >= 2.0), quality=quality, seeds=(0,))


def _size(folder: Path) -> int:
    return os.stat(folder / "log.jsonl").st_size  # noqa: PTH116 - no exception wanted while it is being made
