"""Which configuration visits which partition next, on which worker: the schedule of model hopping.

Every epoch of a configuration is a chain of units: one training unit a partition, then one that validates. A partition
is pinned to a worker; the model comes to it. Within an epoch no configuration is on two workers at once, so its weights
are those of training alone on the partitions in the order of its visits. With `order="seeded"` that order is drawn
beforehand for each (lane, epoch), so results do not depend on timing, on workers or on failures; with `order="free"`
the schedule takes the partition that suits it, an open shop, a little faster.

The same `Hopper` runs a study and its simulation, so what is proved of one holds for the other.

References:
    Nakandala, Zhang and Kumar, "Cerebro: A Data System for Optimized Deep Learning Model Selection", PVLDB 2020.
    Differs: a fixed order per (configuration, epoch), longest remaining time first instead of at random.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from stepwell.core.errors import InvalidValueError
from stepwell.core.registry import Registry

Phase = Literal["train", "peek", "validate"]
Ordering = Literal["seeded", "free"]
EVERYWHERE = -1


class Unit(NamedTuple):
    """The quantum of scheduling.

    Args:
        configs: The configurations: one, or several that train as one batched model.
        partition: What is visited: a partition to train on, a validation slice to peek at, -1 for all slices.
        epoch: The epoch, from 0.
        phase: Whether the visit trains, or only scores; scoring changes nothing.
        attempt: How often it was begun before.
    """

    configs: tuple[str, ...]
    partition: int
    epoch: int
    phase: Phase
    attempt: int = 0


def visiting_order(seed: int, epoch: int, lane: int, num_partitions: int, *, in_time: bool = False) -> list[int]:
    """Return the order in which a configuration visits the partitions in one epoch.

    Each epoch has a random permutation, and each lane begins at another place of it. So a configuration's order is
    uniformly random, and as many equal configurations as there are partitions make a Latin rectangle.

    Args:
        seed: The study's seed.
        epoch: The epoch.
        lane: The configuration's lane.
        num_partitions: How many there are.
        in_time: Whether partitions follow each other in time and are visited so.
    """
    if in_time:
        return list(range(num_partitions))
    base = np.random.default_rng([seed, epoch, 0x0DE]).permutation(num_partitions)
    return [int(base[(place + lane) % num_partitions]) for place in range(num_partitions)]


@dataclass(slots=True)
class Job:
    """One epoch of one configuration (or group): what is left to do.

    Args:
        configs: The configurations.
        number: Its place among all jobs, for schedules that count.
        epoch: The epoch.
        left: Partitions not yet trained on, in seeded order.
        seconds: Expected seconds of training on each partition.
        peeks: Validation slices to peek at, one after each training unit, while they last.
        validates: Whether the epoch ends with a validation.
        begun: Whether the configuration has a first result already.
        peek: The slice to peek at next, or None.
        attempts: How often the next unit was begun before.
        running: Whether a unit of it runs.
    """

    configs: tuple[str, ...]
    number: int
    epoch: int
    left: list[int]
    seconds: Sequence[float]
    peeks: list[int] = field(default_factory=list)
    validates: bool = True
    begun: bool = False
    peek: int | None = None
    attempts: int = 0
    running: Unit | None = None
    remaining_s: float = 0.0

    def __post_init__(self) -> None:
        self.remaining_s = sum(self.seconds[partition] for partition in self.left)

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return not self.left and self.peek is None and not self.validates


class Schedule(Protocol):
    """Chooses among jobs that could run now."""

    def choose(self, worker: int, ready: Sequence[Job]) -> Job:
        """Return one of the jobs; there is at least one."""


schedules: Registry[type] = Registry("schedule")


@schedules.register("longest")
class LongestRemaining:
    """Earlier epochs first, then whoever has no result yet, then the longest remaining time in the epoch."""

    def choose(self, worker: int, ready: Sequence[Job]) -> Job:
        return min(ready, key=_urgency)


def _urgency(job: Job) -> tuple[int, bool, float, int]:
    return (job.epoch, job.begun, -job.remaining_s, job.number)


@schedules.register("latin")
class LatinRectangle:
    """Worker `j` takes configurations in turn from its own starting place: with a free order and equal units, the
    shortest schedule there is.
    """

    def __init__(self) -> None:
        self._turn: dict[int, int] = {}
        self._width = 1

    def choose(self, worker: int, ready: Sequence[Job]) -> Job:
        first = min(job.epoch for job in ready)
        begin = self._turn.get(worker, worker)
        width = self._width = max(self._width, 1 + max(job.number for job in ready))
        job = min((job for job in ready if job.epoch == first), key=lambda job: (job.number - begin) % width)
        self._turn[worker] = job.number + 1
        return job


@schedules.register("random")
class RandomSchedule:
    """Any job, evenly: Cerebro's own choice.

    Args:
        seed: Of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def choose(self, worker: int, ready: Sequence[Job]) -> Job:
        first = min(job.epoch for job in ready)
        return self._random.choice([job for job in ready if job.epoch == first])


class Hopper:
    """Holds the jobs under way and hands out units.

    Guarantee: every training unit of a job is handed out once, unless it failed; never two units of one configuration
    at a time; a training unit only to the worker that holds its partition; no worker is refused a unit that could run.

    Args:
        placement: The worker that holds each partition.
        schedule: Chooses among what could run.
        order: Whether the order of visits is fixed or free.

    Cost:
        O(jobs) a unit.
    """

    def __init__(self, placement: Sequence[int], schedule: Schedule | None = None, order: Ordering = "seeded") -> None:
        if order not in ("seeded", "free"):
            raise InvalidValueError("order", order, "'seeded' or 'free'")
        self.placement, self.order = list(placement), order
        self.schedule: Schedule = LongestRemaining() if schedule is None else schedule
        self._jobs: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs under way, by the name of their first configuration."""
        return self._jobs

    def add(self, job: Job) -> None:
        """Take a job on; its configurations have no other."""
        self._jobs[job.configs[0]] = job

    def drop(self, config: str) -> None:
        """Forget a job, whatever is left of it."""
        self._jobs.pop(config, None)

    def next(self, worker: int, *, only_training: bool = False) -> Unit | None:
        """Return a unit that may run on `worker` now, and hold its configurations busy; None if there is none."""
        placement, free = self.placement, self.order == "free"
        ready = []
        for job in self._jobs.values():
            if job.running is not None:
                continue
            if job.peek is None and job.left:
                if free:
                    if any(placement[partition] == worker for partition in job.left):
                        ready.append(job)
                elif placement[job.left[0]] == worker:
                    ready.append(job)
            elif not only_training and not job.over:
                ready.append(job)
        if not ready:
            return None
        job = self.schedule.choose(worker, ready)
        job.running = self._unit(job, worker)
        return job.running

    def _unit(self, job: Job, worker: int) -> Unit:
        if job.peek is not None:
            return Unit(job.configs, job.peek, job.epoch, "peek", job.attempts)
        if not job.left:
            return Unit(job.configs, EVERYWHERE, job.epoch, "validate", job.attempts)
        partition = job.left[0]
        if self.order == "free":
            mine = [one for one in job.left if self.placement[one] == worker]
            partition = max(mine, key=lambda one: job.seconds[one])
        return Unit(job.configs, partition, job.epoch, "train", job.attempts)

    def done(self, unit: Unit) -> bool:
        """Hear that a unit is finished; return whether its job is over (and forgotten)."""
        job = self._of(unit)
        job.running, job.attempts = None, 0
        if unit.phase == "train":
            job.left.remove(unit.partition)
            job.remaining_s -= job.seconds[unit.partition]
            job.peek = job.peeks.pop(0) if job.peeks else None
        elif unit.phase == "peek":
            job.peek = None
        else:
            job.validates = False
        if unit.phase != "train" or job.peek is None:
            job.begun = True
        if job.over:
            del self._jobs[unit.configs[0]]
            return True
        return False

    def lost(self, unit: Unit) -> int:
        """Hear that a unit came to nothing; it may be handed out again. Return how often it was begun so far."""
        job = self._of(unit)
        job.running = None
        job.attempts += 1
        return job.attempts

    def runs(self, unit: Unit) -> bool:
        """Say whether exactly this unit is out; a second message about it says no."""
        job = self._jobs.get(unit.configs[0])
        return job is not None and job.running == unit

    def _of(self, unit: Unit) -> Job:
        if not self.runs(unit):
            raise InvalidValueError("unit", unit, "one that is running")
        return self._jobs[unit.configs[0]]


def place_evenly(num_partitions: int, workers: int) -> list[int]:
    """Return the worker that holds each partition: in turn."""
    return [partition % workers for partition in range(num_partitions)]
