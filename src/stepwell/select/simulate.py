"""A schedule played through with given times: its makespan, its lower bound, and a checker that trusts nobody.

The simulator drives the same `Hopper` as a study. The checker shares no code with either.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stepwell.select.hopper import Hopper, Job, Ordering, Schedule, Unit, place_evenly, visiting_order

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Visit:
    """One unit as it happened.

    Args:
        worker: Where.
        config: Which configuration (its number).
        partition: Which partition.
        begin: When it began.
        end: When it ended, well or not.
        failed: Whether it came to nothing.
    """

    worker: int
    config: int
    partition: int
    begin: float
    end: float
    failed: bool = False


def lower_bound(times: Times, placement: Sequence[int]) -> float:
    """Return what no schedule of one epoch can beat: the busiest worker, or the longest configuration.

    Args:
        times: Seconds of each (configuration, partition).
        placement: The worker that holds each partition.
    """
    if not times.size:
        return 0.0
    loads: dict[int, float] = defaultdict(float)
    for partition, worker in enumerate(placement):
        loads[worker] += float(times[:, partition].sum())
    return max(*loads.values(), float(times.sum(axis=1).max()))


def simulate(
    times: Times,
    placement: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    order: Ordering = "seeded",
    seed: int = 0,
    failing: float = 0.0,
) -> list[Visit]:
    """Play one epoch through and return its visits in order of their end.

    Args:
        times: Seconds of each (configuration, partition).
        placement: The worker that holds each partition; one worker a partition if None.
        schedule: Chooses among what could run; longest remaining time first if None.
        order: Whether the order of visits is fixed or free.
        seed: Of the orders and of the failures.
        failing: Share of units that die half-way, at random.
    """
    num_configs, num_partitions = times.shape
    placement = place_evenly(num_partitions, num_partitions) if placement is None else placement
    hopper = Hopper(placement, schedule, order)
    for config in range(num_configs):
        left = visiting_order(seed, 0, config, num_partitions)
        hopper.add(Job((str(config),), config, 0, left, times[config].tolist(), validates=False))
    draws = np.random.default_rng([seed, 0xF41])
    running: list[tuple[float, int, Unit, float, bool]] = []
    idle = sorted(set(placement))
    visits: list[Visit] = []
    now = 0.0
    while len(hopper) or running:
        for worker in list(idle):
            unit = hopper.next(worker)
            if unit is not None:
                idle.remove(worker)
                failed = bool(failing) and bool(draws.random() < failing)
                seconds = float(times[int(unit.configs[0]), unit.partition]) * (0.5 if failed else 1.0)
                heapq.heappush(running, (now + seconds, worker, unit, now, failed))
        now = running[0][0]
        while running and running[0][0] == now:
            _, worker, unit, begin, failed = heapq.heappop(running)
            visits.append(Visit(worker, int(unit.configs[0]), unit.partition, begin, now, failed))
            idle.append(worker)
            if failed:
                hopper.lost(unit)
            else:
                hopper.done(unit)
        idle.sort()
    return visits


def makespan(visits: Sequence[Visit]) -> float:
    """Return when the last visit ended."""
    return max((visit.end for visit in visits), default=0.0)


def check_schedule(
    visits: Sequence[Visit],
    times: Times,
    placement: Sequence[int],
    orders: Sequence[Sequence[int]] | None = None,
) -> list[str]:
    """Return every rule that a schedule of one epoch breaks, in words; empty if it is right.

    Args:
        visits: What happened.
        times: Seconds of each (configuration, partition).
        placement: The worker that holds each partition.
        orders: The order in which each configuration must visit, or None if any will do.
    """
    wrong: list[str] = []
    good = [visit for visit in visits if not visit.failed]
    seen = sorted((visit.config, visit.partition) for visit in good)
    if seen != [(i, j) for i in range(times.shape[0]) for j in range(times.shape[1])]:
        wrong.append("not every (configuration, partition) was visited exactly once")
    for visit in visits:
        if visit.worker != placement[visit.partition]:
            wrong.append(f"{visit} is not where its partition is")
        took, wanted = visit.end - visit.begin, float(times[visit.config, visit.partition])
        if abs(took - wanted) > 1e-9 * max(1.0, visit.end) and not visit.failed:
            wrong.append(f"{visit} took {took}, not {wanted}")
    for name in ("worker", "config"):
        for key in {getattr(visit, name) for visit in visits}:
            mine = sorted((visit.begin, visit.end) for visit in visits if getattr(visit, name) == key)
            if any(later[0] < earlier[1] for earlier, later in pairwise(mine)):
                wrong.append(f"{name} {key} did two things at once")
    if orders is not None:
        for config, order in enumerate(orders):
            went = [visit.partition for visit in sorted(good, key=lambda v: v.begin) if visit.config == config]
            if went != list(order):
                wrong.append(f"configuration {config} visited {went}, not {list(order)}")
    wrong += _idle_in_vain(visits, times, placement, orders)
    return wrong


def _idle_in_vain(
    visits: Sequence[Visit], times: Times, placement: Sequence[int], orders: Sequence[Sequence[int]] | None
) -> list[str]:
    """Return the moments at which a worker idled though a unit could have begun."""
    wrong: list[str] = []
    moments = sorted({0.0, *(visit.end for visit in visits)})
    end = max((visit.end for visit in visits), default=0.0)
    for moment in moments:
        if moment >= end:
            continue
        busy = [visit for visit in visits if visit.begin <= moment < visit.end]
        done = {(visit.config, visit.partition) for visit in visits if visit.end <= moment and not visit.failed}
        working, away = {visit.worker for visit in busy}, {visit.config for visit in busy}
        for config in range(times.shape[0]):
            left = [j for j in range(times.shape[1]) if (config, j) not in done]
            if orders is not None:
                left = [j for j in orders[config] if j in left][:1]
            if config not in away and any(placement[j] not in working for j in left):
                wrong.append(f"at {moment} configuration {config} and a worker waited for each other")
    return wrong
