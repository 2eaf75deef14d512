"""How good the schedules are, and what handing out a unit costs."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Claim, Result
from stepwell.select import Study, StudySettings, Trainee, search
from stepwell.select.hopper import LatinRectangle, LongestRemaining, RandomSchedule, Schedule, visiting_order
from stepwell.select.simulate import check_schedule, lower_bound, makespan, simulate
from stepwell.select.space import Params

CONFIGS, WORKERS = 32, 8
_TINY = "64 linear models of 33 weights, 4 partitions of one batch, 3 epochs, wall time without the first epoch"
CLAIMS = [
    Claim(
        "select_schedule_unequal",
        "free order, longest remaining time first, 32 configurations of unequal cost (lognormal, sigma 0.8) on 8 "
        "workers: mean makespan over its lower bound, 100 instances",
        1.03,
        "x",
        "<=",
    ),
    Claim(
        "select_schedule_equal",
        "free order, Latin rectangle, equal costs, 8, 16, 32 and 64 configurations on 8 workers: worst makespan over "
        "its lower bound",
        1.0,
        "x",
        "<=",
    ),
    Claim(
        "select_schedule_failing",
        "seeded order, 64 configurations on 32 workers with 10 % of units failing: configurations whose order of "
        "visits (hence weights) differs from the fixed one, or rules broken, 10 instances",
        0.0,
        "",
        "<=",
    ),
    Claim("select_schedule_time", "64 configurations x 16 partitions scheduled in total, free order", 50.0, "ms", "<="),
    Claim(
        "select_dispatch_inline", f"milliseconds a unit beyond its own work, in one process: {_TINY}", 2.0, "ms", "<="
    ),
    Claim(
        "select_dispatch_processes",
        f"milliseconds between a worker's units, mean, with 2 worker processes: {_TINY}",
        10.0,
        "ms",
        "<=",
    ),
]


def tiny(params: Params) -> Trainee:
    """Build a linear model."""
    model = torch.nn.Linear(10, 3)
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=float(params["lr"] or 0.0), momentum=0.9))


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Simulate, then run tiny studies."""
    return [_unequal(quick=quick), _equal(), _failing(quick=quick), _time(), *_dispatch(quick=quick)]


def _ratio(times: np.ndarray, order: str, schedule: Schedule, seed: int) -> float:
    visits = simulate(times, None, schedule, order, seed)  # type: ignore[arg-type]
    return makespan(visits) / lower_bound(times, range(times.shape[1]))


def _unequal(*, quick: bool) -> Result:
    ratios: dict[str, list[float]] = {}
    for seed in range(20 if quick else 100):
        cost = np.random.default_rng(seed).lognormal(0, 0.8, CONFIGS)
        times = np.repeat(cost[:, None], WORKERS, 1)
        for order in ("free", "seeded"):
            for schedule in (LongestRemaining(), RandomSchedule(seed)):
                name = f"{order}, {type(schedule).__name__}"
                ratios.setdefault(name, []).append(_ratio(times, order, schedule, seed))
    means = {name: {"mean C/LB": float(np.mean(found)), "worst": max(found)} for name, found in ratios.items()}
    return Result(
        "select_schedule_unequal",
        means["free, LongestRemaining"]["mean C/LB"],
        means,
        seeds=tuple(range(20 if quick else 100)),
    )


def _equal() -> Result:
    found = {
        f"{count} x 8": {"C/LB": _ratio(np.ones((count, 8)), "free", LatinRectangle(), 0)} for count in (8, 16, 32, 64)
    }
    seeded = {
        f"{count} x 8, seeded": {"C/LB": _ratio(np.ones((count, 8)), "seeded", LongestRemaining(), 0)}
        for count in (8, 16, 32, 64)
    }
    return Result("select_schedule_equal", max(one["C/LB"] for one in found.values()), {**found, **seeded})


def _failing(*, quick: bool) -> Result:
    wrong, failed, visits = 0, 0, []
    for seed in range(2 if quick else 10):
        times = np.random.default_rng(seed).lognormal(0, 0.8, (64, 1)) * np.ones((64, 32))
        visits = simulate(times, seed=seed, failing=0.1)
        orders = [visiting_order(seed, 0, config, 32) for config in range(64)]
        wrong += len(check_schedule(visits, times, range(32), orders))
        failed += sum(visit.failed for visit in visits)
    return Result(
        "select_schedule_failing", wrong, quality={"units failed": failed}, seeds=tuple(range(2 if quick else 10))
    )


def _time() -> Result:
    times = np.random.default_rng(0).lognormal(0, 0.8, (64, 1)) * np.ones((64, 16))
    found = {}
    for order in ("free", "seeded"):
        begin = time.perf_counter()
        simulate(times, order=order)
        found[order] = {"ms": 1e3 * (time.perf_counter() - begin)}
    return Result("select_schedule_time", found["free"]["ms"], dict(found), {"units": 64 * 16})


def _dispatch(*, quick: bool) -> list[Result]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(800, 10, generator=draw)
    data = (x, (x @ torch.randn(10, 3, generator=draw)).argmax(1))
    space = {"lr": [0.001 * (1 + number) for number in range(16 if quick else 64)]}
    results = []
    for workers, name in ((1, "select_dispatch_inline"), (2, "select_dispatch_processes")):
        with tempfile.TemporaryDirectory() as folder:
            study = search(
                space,
                data,
                tiny,
                epochs=3,
                workers=workers,
                folder=Path(folder),
                settings=StudySettings(partitions=4, batch_size=1024, early=False),
            )
        gap = _gap(study)
        spans = [span for span in study.records.spans if span.epoch > 0]
        hop = 1e3 * sum(span.hop_s for span in spans) / len(spans)
        results.append(Result(name, gap + hop, quality={"units": len(spans), "hop_ms": hop, "between_units_ms": gap}))
    return results


def _gap(study: Study) -> float:
    """Return the mean milliseconds between the end of a worker's unit and the begin of its next, after epoch 1."""
    gaps = []
    for worker in {span.worker for span in study.records.spans}:
        mine = sorted(
            (span for span in study.records.spans if span.worker == worker and span.epoch > 0),
            key=lambda one: one.begin,
        )
        gaps += [max(0.0, later.begin - earlier.end) for earlier, later in pairwise(mine)]
    return 1e3 * sum(gaps) / max(len(gaps), 1)
