"""What a few real batches take: the cost model's main source, because no formula knows a model or a burst.

At a few places of the stream some consecutive batches are made and learnt, each once, as in training, by a copy of the
model whose state holds the newest event of every node before that place. Batches are made on the calling thread, stage
by stage, so that each stage's seconds are its own. What they took in sum, over their events, times the events of the
epoch, is the prediction.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import torch

from stepwell.access import Pipeline
from stepwell.core import Batch, Cost, Ids, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Batcher, Model, Source
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

REMEMBERED = 20_000
"""Nodes whose newest event the copy of the model observes before a probe, at most."""

Build = Callable[[EventLog, Batcher], Pipeline]


@dataclass(frozen=True, slots=True)
class Given:
    """Slices that are known already."""

    slices: tuple[Slice, ...]

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield this rank's slices, those of the one epoch there is."""
        return islice(iter(self.slices), shard[0], None, shard[1])


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured, in sum over the probed batches.

    Args:
        num_batches: Batches probed.
        num_events: Their events.
        stages: Cost of each stage of the pipeline, by its name in the plan, first to last.
        step: Cost of the model's steps; rows are the distinct targets of all levels.
    """

    num_batches: int
    num_events: int
    stages: tuple[tuple[str, Cost], ...]
    step: Cost

    @property
    def make_s(self) -> float:
        """Seconds of making the batches."""
        return sum(cost.seconds or 0.0 for _, cost in self.stages)


def probe(
    build: Build,
    log: EventLog,
    batcher: Batcher,
    model: Model,
    *,
    places: int = 5,
    run: int = 3,
    limit_s: float = 4.0,
    device: torch.device | str = "cpu",
) -> Probe:
    """Train a copy of a model on a few batches of a log and say what each stage took.

    Neither the model nor the caller's random generators change.

    Args:
        build: Makes the pipeline over a view and a batcher; must not prefetch.
        log: The training events.
        batcher: Where they are cut.
        model: The model, an `nn.Module`.
        places: Places of the stream to probe, evenly spread.
        run: Consecutive batches at each.
        limit_s: No new place is begun after so many seconds.
        device: Where the model runs.

    Raises:
        InvalidValueError: If the log has no events, or the model is no module.

    Cost:
        `(places + 1) run` steps at most, of which the first `run` are not counted, and a copy of the model.
    """
    cuts = tuple(batcher.cuts(log, 0))
    if not cuts:
        raise InvalidValueError("log", repr(log), "a log with events")
    if not isinstance(model, torch.nn.Module):
        raise InvalidValueError("model", type(model).__name__, "a torch.nn.Module")
    begin = time.perf_counter()
    twin = copy.deepcopy(model)
    twin.train()
    found: list[Probe] = []
    with torch.random.fork_rng():
        for number in _order(places):
            first = min(int((number + 0.5) / places * len(cuts)), max(0, len(cuts) - run))
            if not found:
                _train(build, log, cuts[max(0, first - run) :][:run], twin, device)
            found.append(_train(build, log, cuts[first : first + run], twin, device))
            if time.perf_counter() - begin > limit_s:
                break
    return _sum(found)


def _order(places: int) -> list[int]:
    """Return the places from the middle outwards, so that a probe cut short is of the middle."""
    return sorted(range(places), key=lambda place: abs(place - (places - 1) / 2))


def _train(build: Build, log: EventLog, cuts: Sequence[Slice], model: Model, device: torch.device | str) -> Probe:
    origin = cuts[0].begin
    view = log[origin : cuts[-1].end]
    here = tuple(Slice(0, i, cut.begin - origin, cut.end - origin) for i, cut in enumerate(cuts))
    pipeline = build(view, Given(here))
    remember(model, build, log, origin)
    loop = Loop(model, pipeline, LoopConfig())
    seconds, core_s, rows = 0.0, 0.0, 0
    for batch in pipeline.epoch(0):
        wall, core = time.perf_counter(), time.process_time()
        loop.step(batch)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        seconds, core_s = seconds + time.perf_counter() - wall, core_s + time.process_time() - core
        rows += _rows(batch)
    names = [node.name for _, node in reversed(pipeline.plan.rows())]
    measured = pipeline.measured
    stages = tuple((name, measured[name]) for name in names if name in measured)
    return Probe(len(cuts), len(view), stages, Cost(rows, None, seconds, calls=len(cuts), core_s=core_s))


def _rows(batch: Batch) -> int:
    return sum(len(cast("Ids", level.node)) for level in batch.levels_of()) if "levels" in batch else len(batch)


def remember(model: Model, build: Build, log: EventLog, before: int) -> None:
    """Bring a model to about the state in which training comes to an event: each node's newest event is observed.

    Args:
        model: The model; forgets what it knew.
        build: Makes a pipeline.
        log: The training events.
        before: How many of them lie in the past.

    Cost:
        One pass over the past and one batch of at most `REMEMBERED` events.
    """
    model.forget()
    newest = np.full(log.num_nodes, -1, np.int64)
    other = newest.copy()
    newest[log.src[:before]] = np.arange(before)
    other[log.dst[:before]] = np.arange(before)
    rows = np.unique(np.maximum(newest, other))
    rows = rows[rows >= 0][-REMEMBERED:]
    if not len(rows):
        return
    batch = next(iter(build(log, Given((Slice(0, 0, 0, len(rows), rows),))).epoch(0)))
    with torch.no_grad():
        model.observe(batch)


def _sum(parts: Sequence[Probe]) -> Probe:
    stages = []
    for i, (name, _) in enumerate(parts[0].stages):
        stages.append((name, sum((part.stages[i][1] for part in parts), Cost())))
    step = sum((part.step for part in parts), Cost())
    events, batches = sum(part.num_events for part in parts), sum(part.num_batches for part in parts)
    return Probe(batches, events, tuple(stages), step)
