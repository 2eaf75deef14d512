"""What a study promises whatever happens: the same bits as alone, and intervals that hold as often as they say."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Claim, Result
from stepwell.select import Study, StudySettings, Trainee, cut, search
from stepwell.select.hopper import visiting_order
from stepwell.select.intervals import interval
from stepwell.select.space import Params
from stepwell.select.trainee import read_blob, seed_all
from stepwell.select.usual import usual_step

EPOCHS, BATCH = 3, 32
GRID = {"lr": [0.3, 0.1, 0.03, 0.01], "width": [16, 24], "drop": [0.0, 0.3]}
CLAIMS = [
    Claim(
        "select_bitwise",
        "16 MLP configurations, 4 partitions, 3 epochs, SGD with momentum and Adam with schedule and dropout: tensors "
        "of final weights that differ from training each alone, over 1, 2 and 4 workers and 4 with one killed by "
        "signal 9 in a unit",
        0.0,
        "tensors",
        "<=",
    ),
    Claim(
        "select_coverage",
        "intervals at 90 % over 10,000 simulated finite populations of 200, all-correct, nearly so, all-wrong, half "
        " and graded, seen in a random part: largest share of misses of the empirical Bernstein-Serfling, the "
        "Hoeffding-Serfling, betting and Wilson's interval (zeros and ones only)",
        0.1,
        "share",
        "<=",
    ),
]


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 2,000 rows with three classes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2_000, 10, generator=draw)
    return x, (x @ torch.randn(10, 3, generator=draw)).argmax(1)


def momentum(params: Params) -> Trainee:
    """Build an MLP with SGD and momentum."""
    model = _mlp(params)
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=float(params["lr"] or 0), momentum=0.9))


def adam(params: Params) -> Trainee:
    """Build an MLP with Adam and a cosine schedule; dropout comes with the parameters."""
    model = _mlp(params)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(params["lr"] or 0))
    return Trainee(model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150))


def _mlp(params: Params) -> torch.nn.Sequential:
    width, drop = int(params["width"] or 0), float(params["drop"] or 0.0)
    parts = [torch.nn.Linear(10, width), torch.nn.ReLU(), torch.nn.Dropout(drop), torch.nn.Linear(width, 3)]
    return torch.nn.Sequential(*parts)


def killing_step(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Kill this worker at the 300th step of all workers together, once."""
    with Path(os.environ["STEPWELL_BENCH_KILL"]).open("ab") as file:
        file.write(b".")
        file.flush()
        if file.tell() == 300:
            os.kill(os.getpid(), signal.SIGKILL)
    return usual_step(model, batch)


def alone(build: Callable[[Params], Trainee], params: Params, lane: int) -> dict[str, torch.Tensor]:
    """Train one configuration by itself, in the order of visits that the study fixes."""
    torch.set_num_threads(1)
    source = cut(problem(), partitions=4)
    seed_all(0)
    made = build(params)
    optimizer, schedule = made.optimizer, made.schedule
    assert optimizer is not None
    made.model.train()
    for epoch in range(EPOCHS):
        for partition in visiting_order(0, epoch, lane, 4):
            for batch in source.train(partition, epoch, BATCH):
                optimizer.zero_grad()
                usual_step(made.model, batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if schedule is not None:
                    schedule.step()
    return dict(made.model.state_dict())


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Compare the weights; then simulate."""
    return [_bitwise(quick=quick), _coverage(quick=quick)]


def _bitwise(*, quick: bool) -> Result:
    differ, lost, compared = 0, 0, 0
    baseline: dict[str, dict[str, float | str]] = {}
    for build in (momentum, adam):
        for workers, kill in ((1, False), (2, False), *([] if quick else [(4, False), (4, True)])):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["STEPWELL_BENCH_KILL"] = str(Path(folder) / "steps")
                study = search(
                    GRID,
                    problem(),
                    build,
                    epochs=EPOCHS,
                    workers=workers,
                    step=killing_step if kill else usual_step,
                    folder=Path(folder) / "study",
                    settings=StudySettings(partitions=4, batch_size=BATCH),
                )
                found = _differing(study, build)
            differ, compared = differ + found[0], compared + found[1]
            lost += sum(one.lost for one in study.configs)
            name = f"{build.__name__}, {workers} workers{', one killed' if kill else ''}"
            baseline[name] = {"tensors": found[1], "differing": found[0]}
    return Result("select_bitwise", differ, baseline, {"tensors compared": compared, "units lost to kills": lost}, (0,))


def _differing(study: Study, build: Callable[[Params], Trainee]) -> tuple[int, int]:
    differ = compared = 0
    for config in study.configs:
        expected = alone(build, config.params, config.number % 4)
        blob = study.records.state_path(config.name, config.version).read_bytes()
        found = read_blob(blob).child("model").child("module").tensors()
        for name, value in expected.items():
            compared += 1
            differ += not torch.equal(found[name], value)
    return differ, compared


def _coverage(*, quick: bool) -> Result:
    trials, size, alpha = (1_000 if quick else 10_000), 200, 0.1
    makers: dict[str, Callable[[np.random.Generator], npt.NDArray[np.float64]]] = {
        "all correct": lambda draw: np.ones(size),
        "nearly all correct": lambda draw: (draw.random(size) < 0.98).astype(float),
        "all wrong": lambda draw: np.zeros(size),
        "half": lambda draw: (draw.random(size) < 0.5).astype(float),
        "graded": lambda draw: draw.beta(0.3, 0.6, size),
    }
    misses: dict[str, dict[str, float | str]] = {}
    worst = 0.0
    for number, (name, make) in enumerate(makers.items()):
        draw = np.random.default_rng([0, number])
        wrong = {"bernstein": 0, "hoeffding": 0, "betting": 0, "wilson": 0}
        for _ in range(trials // len(makers)):
            values = make(draw)
            seen = draw.permutation(values)[: int(draw.integers(1, size))]
            for method in wrong:
                if method == "wilson" and name == "graded":
                    continue
                found = interval(seen, alpha, population=size, method=method)  # type: ignore[arg-type]
                wrong[method] += not found.low - 1e-12 <= values.mean() <= found.high + 1e-12
        shares = {method: count / (trials // len(makers)) for method, count in wrong.items()}
        misses[name] = dict(shares)
        worst = max(worst, *shares.values())
    return Result("select_coverage", worst, misses, {"populations": trials}, (0,))
