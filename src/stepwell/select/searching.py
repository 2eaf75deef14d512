"""The front door: train many configurations on the same data at once, and say which is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch

from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.core.state import Json
from stepwell.select.data import Source, cut
from stepwell.select.engine import Engine, Rules
from stepwell.select.executors import Executor, Inline, Processes
from stepwell.select.hopper import Ordering, schedules
from stepwell.select.journal import Watcher
from stepwell.select.log import Log
from stepwell.select.orders import Searcher, searchers
from stepwell.select.searchers import PBT, Grid, Hyperband, Random
from stepwell.select.space import Space, Value
from stepwell.select.study import Study, replay
from stepwell.select.table import live_table
from stepwell.select.trainee import Build, Step
from stepwell.select.usual import Metric, usual_metric, usual_step
from stepwell.select.work import Task

MakeExecutor = Callable[[Task, Source], Executor]


@dataclass(frozen=True, slots=True)
class StudySettings:
    """How a study is run; the usual values suit most.

    Args:
        partitions: Parts the training data are cut into; one is the quantum of scheduling.
        slices: Parts the validation data are cut into.
        batch_size: Rows a batch, unless a configuration has a parameter of that name.
        seed: Seeds weights, order and everything else that draws.
        order: `seeded` fixes the order of visits for each (configuration, epoch), so that results depend on nothing
            else; `free` leaves it to the schedule, a little faster.
        schedule: Name of the schedule: `longest`, `latin` or `random`.
        lanes: How many different orders of visits there are, at most `partitions`; 0 for as many. Configurations of one
            lane visit in the same order and may be fused.
        fuse: Most configurations of equal architecture that train as one batched model; 0 trains each by itself.
        at_once: Most configurations under way at a time; 0 leaves it to the searcher.
        early: Whether configurations are scored between the units of their first epoch.
        threads: Compute threads of a worker.
        device: Where models and batches live.
        live_bytes: States that a worker may keep in memory besides the one at work.
    """

    partitions: int = 4
    slices: int = 4
    batch_size: int = 64
    seed: int = 0
    order: Ordering = "seeded"
    schedule: str = "longest"
    lanes: int = 0
    fuse: int = 0
    at_once: int = 0
    early: bool = True
    threads: int = 1
    device: str = "cpu"
    live_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("partitions", "slices", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise InvalidValueError(name, getattr(self, name), "at least 1")
        if not 0 <= self.lanes <= self.partitions:
            raise InvalidValueError("lanes", self.lanes, f"within 0 and partitions ({self.partitions})")


def search(
    space: Space | Mapping[str, object],
    data: object,
    model: Build,
    *,
    metric: str | Metric = "accuracy",
    mode: Literal["max", "min"] | None = None,
    epochs: int = 1,
    workers: int | MakeExecutor = 1,
    budget: float | None = None,
    searcher: str | Searcher = "grid",
    configs: int | None = None,
    validation: object = 0.2,
    step: Step = usual_step,
    folder: str | Path = "",
    settings: StudySettings | None = None,
    watchers: Sequence[Watcher] = (),
) -> Study:
    """Train the configurations of a space on the same data and return the study.

    Guarantee: with `order="seeded"`, no fusion and equal threads, each configuration's weights are bit for bit those
    of training it alone on the partitions in the order of its visits, for any number of workers, kills and resumptions.

    Args:
        space: Names to dimensions or lists of values.
        data: Arrays `(x, y)` or a mapping of them, a torch data set, a lake's table, an event log (visited in time).
        model: Makes a module, or a `Trainee` with optimiser and schedule, of one configuration's parameters.
        metric: `accuracy`, `loss`, `mse`, `mae`, for temporal models `mrr` or `outranked`, or a `Metric` of one's own.
        mode: Whether larger (`max`) or smaller (`min`) values are better; need not be said, the metric knows.
        epochs: Epochs of a configuration that is not stopped early.
        workers: 1 runs in this process; more are processes of this machine; `on_ray(4)` makes actors.
        budget: Seconds after which no further unit begins; call again to go on.
        searcher: `grid`, `random`, `halving`, `asha`, `hyperband`, `pbt`, or a searcher of one's own.
        configs: How many configurations a drawing searcher begins with.
        validation: The same kind of data, or the share of `data` to hold out.
        step: Returns the loss of a batch; the library does the rest.
        folder: The study's folder; one that has a study in it goes on. A fresh one below `studies/` if empty.
        settings: How it is run.
        watchers: Hear of every event.

    Raises:
        InvalidValueError: If an argument is out of range.
        CheckpointError: If the folder holds a study with other settings.

    Example:
        >>> x = torch.randn(200, 4)
        >>> build = lambda params: torch.nn.Linear(4, 2)
        >>> study = search({"lr": [0.001, 0.1]}, (x, (x[:, 0] > 0).long()), build, epochs=3, folder=folder)
        >>> study.best().params["lr"]
        0.1
    """
    chosen = settings or StudySettings()
    known = space if isinstance(space, Space) else Space(cast("Mapping[str, Value]", space))
    if epochs < 1 or (isinstance(workers, int) and workers < 1):
        raise InvalidValueError("epochs, workers", (epochs, workers), "at least 1 each")
    measure = usual_metric(metric) if isinstance(metric, str) else metric
    if mode not in (None, measure.mode):
        raise InvalidValueError("mode", mode, f"{measure.mode!r}, or nothing: {measure.name} knows")
    place = Path(folder) if folder else _fresh()
    task = Task(
        model,
        step,
        measure.score,
        chosen.batch_size,
        chosen.seed,
        chosen.threads,
        chosen.device,
        chosen.live_bytes,
        place.absolute() / "features",
    )
    source = cut(data, validation, partitions=chosen.partitions, slices=chosen.slices, seed=chosen.seed)
    finder = _searcher(searcher, known, epochs, configs, chosen.seed)
    written = _settings(chosen, source, finder, known, measure, epochs)
    _begin(place, written)
    records = replay(place)
    crew = _crew(task, source, workers) if isinstance(workers, int) else workers(task, source)
    rules = Rules(
        epochs,
        chosen.seed,
        min(chosen.lanes or chosen.partitions, len(source.train_rows)),
        chosen.order,
        chosen.fuse,
        chosen.at_once or getattr(finder, "at_once", None),
        chosen.early,
        budget,
    )
    maker = schedules[chosen.schedule]
    try:
        with live_table() as table:
            Engine(records, task, source, finder, crew, rules, maker(), [*watchers, *table]).run()
    finally:
        crew.close()
    return Study(place, model)


def _crew(task: Task, source: Source, workers: int) -> Executor:
    return Inline(task, source) if workers == 1 else Processes(task, source, min(workers, len(source.train_rows)))


def _searcher(given: str | Searcher, space: Space, epochs: int, configs: int | None, seed: int) -> Searcher:
    if not isinstance(given, str):
        return given
    kind = searchers[given]
    if kind is Grid:
        return Grid(space, epochs)
    if kind is Hyperband:
        return Hyperband(space, epochs, seed=seed)
    if kind is Random and configs is None:
        raise InvalidValueError("configs", None, "how many configurations to draw")
    if kind is PBT:
        return PBT(space, epochs, configs or 8, seed=seed)
    made: Searcher = kind(space, epochs, configs, seed=seed)
    return made


def _settings(
    chosen: StudySettings,
    source: Source,
    searcher: Searcher,
    space: Space,
    metric: Metric,
    epochs: int,
) -> dict[str, Json]:
    """Return what must be equal for a study to go on."""
    bounds = None if metric.bounds is None else list(metric.bounds)
    return {
        **{"metric": metric.name, "mode": metric.mode, "epochs": epochs, "bounds": cast("Json", bounds)},
        **{"partitions": len(source.train_rows), "rows": sum(source.train_rows), "data": source.describe()},
        **{"searcher": type(searcher).__name__, "space": str(space), "seed": chosen.seed, "order": chosen.order},
        **{"lanes": chosen.lanes, "batch_size": chosen.batch_size, "threads": chosen.threads, "fuse": chosen.fuse},
        **{"early": chosen.early, "torch": torch.__version__},
    }


def _begin(folder: Path, settings: dict[str, Json]) -> None:
    """Write the settings of a fresh study, or check that a study in the folder had the same."""
    folder.mkdir(parents=True, exist_ok=True)
    had = replay(folder).settings
    if not had:
        log = Log(folder / "log.jsonl")
        log.append("study", {"settings": settings}, durable=True)
        log.close()
        return
    other = [name for name in settings if had.get(name) != settings[name] and name != "torch"]
    if other:
        both = "; ".join(f"{name}: {had.get(name)!r} there, {settings[name]!r} here" for name in other)
        raise CheckpointError(f"{folder} holds another study ({both}). Go on as it began, or name another folder.")


def _fresh() -> Path:
    number = 1
    while (place := Path("studies") / f"study-{number}").exists():
        number += 1
    return place
