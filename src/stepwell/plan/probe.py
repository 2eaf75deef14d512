"""What a few real batches take: the cost model's main source, because no formula knows a model or a burst.

At a few places of the stream some consecutive batches are made and learnt, each once, as in training, by a copy of the
model whose state holds the newest event of every node before that place. Batches are made on the calling thread, stage
by stage, so that each stage's seconds are its own. What they took in sum, over their events, times the events of the
epoch, is the prediction.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from stepwell.core import Batch, Cost, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Batcher, Model
from stepwell.plan.given import Build, Given, part_of
from stepwell.plan.reuse import num_targets
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

REMEMBERED = 20_000
"""Nodes whose newest event the copy of the model observes before a probe, at most."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured, in sum over the probed batches.

    Args:
        num_batches: Batches probed.
        num_events: Their events.
        stages: Cost of each stage of the pipeline, by its name in the plan, first to last.
        step: Cost of the model's steps; rows are the distinct targets of all levels.
        before: Cost of what a stage planned for these batches before the first of them.
    """

    num_batches: int
    num_events: int
    stages: tuple[tuple[str, Cost], ...]
    step: Cost
    before: tuple[tuple[str, Cost], ...] = ()

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
    around: int = 0,
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
        around: Batches before them, which the model sees but does not learn, and batches behind them, which it does not
            see: for stages that keep what earlier batches made, and plan for later ones.
        limit_s: No new place is begun after so many seconds.
        device: Where the model runs.

    Raises:
        InvalidValueError: If the log has no events, or the model is no module.

    Cost:
        `(places + 1) run` steps at most, of which the first `run` are not counted, `places around` forward passes, and
        a copy of the model.
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
                _train(build, log, cuts, max(0, first - run), run, 0, twin, device)
            found.append(_train(build, log, cuts, first, run, around, twin, device))
            if time.perf_counter() - begin > limit_s:
                break
    return _sum(found)


def _order(places: int) -> list[int]:
    """Return the places from the middle outwards, so that a probe cut short is of the middle."""
    return sorted(range(places), key=lambda place: abs(place - (places - 1) / 2))


def _train(
    build: Build,
    log: EventLog,
    cuts: Sequence[Slice],
    first: int,
    run: int,
    around: int,
    model: Model,
    device: torch.device | str,
) -> Probe:
    last = min(first + run, len(cuts))
    view, here, warm = part_of(log, cuts, first, last, around)
    pipeline = build(view, Given(here))
    remember(model, build, log, cuts[first - warm].begin)
    loop = Loop(model, pipeline, LoopConfig())
    seconds, core_s, rows, events, earlier = 0.0, 0.0, 0, 0, dict[str, Cost]()
    for number, batch in enumerate(pipeline.epoch(0), 1):
        if number <= warm:
            with torch.no_grad():
                model.score(batch)
                model.observe(batch)
            earlier = pipeline.measured
            continue
        wall, core = time.perf_counter(), time.process_time()
        loop.step(batch)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        seconds, core_s = seconds + time.perf_counter() - wall, core_s + time.process_time() - core
        rows, events = rows + num_targets(batch), events + len(batch)
        if number == warm + last - first:
            break
    names = [node.name for _, node in reversed(pipeline.plan.rows())]
    measured = pipeline.measured
    share = events / len(view)
    before = tuple((name, measured[name] * share) for name in names if name in measured and _plans(name))
    stages = tuple(
        (name, _less(measured[name], earlier.get(name))) for name in names if name in measured and not _plans(name)
    )
    return Probe(last - first, events, stages, Cost(rows, None, seconds, calls=last - first, core_s=core_s), before)


def _plans(name: str) -> bool:
    return name.startswith("Plan ")


def _less(cost: Cost, earlier: Cost | None) -> Cost:
    return cost if earlier is None else replace(cost + earlier * -1.0, hit_rate=cost.hit_rate)


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
    plain = Batch(batch.slice, **{name: batch[name] for name in batch if name != "reuse"})
    with torch.no_grad():
        model.observe(plain)


def _sum(parts: Sequence[Probe]) -> Probe:
    def added(costs: Sequence[tuple[tuple[str, Cost], ...]]) -> tuple[tuple[str, Cost], ...]:
        return tuple((name, sum((cost[i][1] for cost in costs), Cost())) for i, (name, _) in enumerate(costs[0]))

    step = sum((part.step for part in parts), Cost())
    events, batches = sum(part.num_events for part in parts), sum(part.num_batches for part in parts)
    stages, before = added([part.stages for part in parts]), added([part.before for part in parts])
    return Probe(batches, events, stages, step, before)


def scaled(these: Probe, other: Probe, base: Probe) -> Probe:
    """Return a probe, each part changed by what the option of another place alone does to it an event.

    Args:
        these: With one place's option.
        other: With another place's.
        base: With the usual options.
    """
    if other is base:
        return these
    events = other.num_events / base.num_events

    def times(there: Cost, here: Cost) -> float:
        return (there.seconds or 0.0) / events / here.seconds if here.seconds else 1.0

    stages = tuple(
        (there[0], cost * times(there[1], here[1]))
        for (_, cost), there, here in zip(these.stages, other.stages, base.stages, strict=True)
    )
    share = these.num_events / other.num_events
    before = {name: cost * share for name, cost in other.before} | dict(these.before)
    return replace(these, stages=stages, step=these.step * times(other.step, base.step), before=tuple(before.items()))
