"""Many small models on mnist: by a plain loop, Optuna with joblib, Ray Tune and a study, all for the same epochs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stepwell.core.settings import settings
from stepwell.select import Study, StudySettings, Trainee, search
from stepwell.select.space import Params

BATCH, HELD = 64, 2_000
Arrays = tuple[torch.Tensor, torch.Tensor]


@cache
def mnist(rows: int) -> tuple[Arrays, Arrays]:
    """Return the first rows of the training part and 2,000 of the test part, pixels in [0, 1]."""
    import pyarrow.parquet as pq

    folder = settings().data
    if folder is None:
        raise FileNotFoundError("set STEPWELL_DATA to a folder that has mnist/train.parquet")

    def read(name: str, count: int) -> Arrays:
        table = pq.read_table(folder / "mnist" / name).slice(0, count).combine_chunks()
        pixels = np.frombuffer(table["image"].chunk(0).buffers()[1], np.uint8)[: count * 784]
        x = torch.from_numpy(pixels.reshape(count, 784).astype(np.float32) / 255)
        return x, torch.from_numpy(table["label"].to_numpy().astype(np.int64))

    return read("train.parquet", rows), read("test.parquet", HELD)


Grid = Mapping[str, Sequence[float]]
RATES = [0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005]
GRIDS: dict[str, Grid] = {
    "8 MLPs": {"lr": RATES, "momentum": [0.9]},
    "16 MLPs": {"lr": RATES, "momentum": [0.0, 0.9]},
    "64 MLPs": {"lr": RATES, "momentum": [0.0, 0.5, 0.8, 0.9], "weight_decay": [0.0, 1e-4]},
    "16 CNNs": {"lr": RATES[2:6], "momentum": [0.0, 0.9], "channels": [4, 8]},
}


def rows_of(grid: Grid) -> list[dict[str, float]]:
    """Return a grid's configurations."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def build(params: Params) -> Trainee:
    """Build an MLP 784-64-10, or a network of two convolutions where there are channels; with SGD."""
    width = int(params.get("channels") or 0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    if width:
        model = torch.nn.Sequential(
            *(torch.nn.Unflatten(1, (1, 28, 28)), torch.nn.Conv2d(1, width, 5, 2, 2), torch.nn.ReLU()),
            *(torch.nn.Conv2d(width, 2 * width, 3, 2, 1), torch.nn.ReLU()),
            *(torch.nn.Flatten(), torch.nn.Linear(2 * width * 49, 10)),
        )
    settings_ = {name: float(params.get(name) or 0.0) for name in ("lr", "momentum", "weight_decay")}
    return Trainee(model, torch.optim.SGD(model.parameters(), **settings_))  # type: ignore[arg-type]


def train_alone(
    params: Params, rows: int, epochs: int, tell: Callable[[int, float], None] | None = None, threads: int = 1
) -> float:
    """Train one configuration as anybody would, validate after each epoch, and return the last accuracy."""
    torch.set_num_threads(threads)
    (x, y), (held_x, held_y) = mnist(rows)
    torch.manual_seed(0)
    made, accuracy = build(params), 0.0
    assert made.optimizer is not None
    for epoch in range(epochs):
        order = torch.randperm(rows)
        for begin in range(0, rows, BATCH):
            some = order[begin : begin + BATCH]
            made.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(made.model(x[some]), y[some]).backward()  # type: ignore[no-untyped-call]
            made.optimizer.step()
        with torch.no_grad():
            accuracy = float((made.model(held_x).argmax(1) == held_y).float().mean())
        if tell is not None:
            tell(epoch, accuracy)
    return accuracy


def plain(grid: Grid, rows: int, epochs: int, threads: int = 1) -> list[float]:
    """Train all configurations, one after the other."""
    return [train_alone(params, rows, epochs, threads=threads) for params in rows_of(grid)]


def ours(
    grid: Grid,
    rows: int,
    epochs: int,
    workers: int = 1,
    fuse: int = 64,
    threads: int = 1,
    early: bool = False,  # noqa: FBT001, FBT002
) -> list[float]:
    """Train them as a study and return the accuracies in the order of the grid."""
    with tempfile.TemporaryDirectory() as folder:
        study = study_of(grid, rows, epochs, Path(folder), workers, fuse, threads, early)
        return [float(one.value or 0.0) for one in study.configs]


def study_of(
    grid: Grid,
    rows: int,
    epochs: int,
    folder: Path,
    workers: int,
    fuse: int,
    threads: int,
    early: bool,  # noqa: FBT001
) -> Study:
    """Run the study."""
    train, held = mnist(rows)
    chosen = StudySettings(
        partitions=4, slices=4, batch_size=BATCH, lanes=workers, fuse=fuse, threads=threads, early=early
    )
    return search(grid, train, build, epochs=epochs, workers=workers, validation=held, folder=folder, settings=chosen)


def optuna_joblib(grid: Grid, rows: int, epochs: int, workers: int = 2) -> list[float]:
    """Let Optuna ask for all configurations of the grid, train them in joblib's processes, tell it the results."""
    import optuna

    joblib: Any = import_module("joblib")

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    trials, asked = [], []
    for params in rows_of(grid):
        study.enqueue_trial(params)
        trial = study.ask()
        asked.append({name: trial.suggest_categorical(name, values) for name, values in grid.items()})
        trials.append(trial)
    mnist(rows)
    pool = joblib.Parallel(n_jobs=workers)
    found = pool(joblib.delayed(train_alone)(params, rows, epochs) for params in asked)
    for trial, value in zip(trials, found, strict=True):
        study.tell(trial, value)
    return [float(value) for value in found]


def ray_tune(grid: Grid, rows: int, epochs: int, *, asha: bool, reuse: bool) -> list[float]:
    """Run Ray Tune on this machine's cores, as shipped (a fresh actor a trial) or with actors that are used again."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    if not ray.is_initialized():
        ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, log_to_driver=False)
    data = ray.put(mnist(rows))

    class Trial(tune.Trainable):
        def setup(self, config: dict[str, float]) -> None:
            torch.set_num_threads(1)
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, float]) -> bool:
            torch.manual_seed(0)
            self.made = build(new_config)
            (self.x, self.y), (self.held_x, self.held_y) = ray.get(data)
            return True

        def step(self) -> dict[str, float]:
            order = torch.randperm(rows)
            optimizer = self.made.optimizer
            assert optimizer is not None
            for begin in range(0, rows, BATCH):
                some = order[begin : begin + BATCH]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(self.made.model(self.x[some]), self.y[some]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                right = self.made.model(self.held_x).argmax(1) == self.held_y
            return {"accuracy": float(right.float().mean())}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            torch.save(self.made.model.state_dict(), Path(checkpoint_dir) / "model.pt")

    settings_ = tune.TuneConfig(
        metric="accuracy",
        mode="max",
        scheduler=ASHAScheduler(max_t=epochs, grace_period=1) if asha else None,  # first in, first out
        reuse_actors=reuse,
    )
    tuner = tune.Tuner(
        Trial,
        param_space={name: tune.grid_search(list(values)) for name, values in grid.items()},
        tune_config=settings_,
        run_config=tune.RunConfig(stop={"training_iteration": epochs}, verbose=0, storage_path=tempfile.mkdtemp()),
    )
    found = tuner.fit()
    return [float((found[number].metrics or {})["accuracy"]) for number in range(len(found))]


def seconds(work: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
