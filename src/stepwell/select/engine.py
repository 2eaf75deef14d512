"""Runs a study: asks the searcher, hands units to workers, writes down what comes back, obeys who steers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from stepwell.core.state import Json
from stepwell.select.data import Source
from stepwell.select.dialogue import Dialogue
from stepwell.select.executors import Executor, Lost
from stepwell.select.fuse import signature
from stepwell.select.hopper import Hopper, Job, Ordering, Schedule, Unit, place_evenly, visiting_order
from stepwell.select.journal import Journal, Watcher
from stepwell.select.orders import Searcher
from stepwell.select.records import Config, Records, Status
from stepwell.select.sampled import Sampling
from stepwell.select.steer import Command, read_commands
from stepwell.select.trainee import as_trainee, seeded
from stepwell.select.work import Failed, Outcome, Reached, Task, Work

MOST_ATTEMPTS = 3
_KEPT_VERSIONS = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """How an engine runs a study.

    Args:
        epochs: Epochs of a configuration that is resumed or added by hand.
        seed: Of the orders.
        lanes: How many different orders of visits there are; configurations of one lane may be fused.
        order: Whether the order of visits is fixed or free.
        fuse: Most configurations of one fused group; below 2 nothing is fused.
        at_once: Most configurations under way at a time, or None.
        early: Whether configurations are scored between the units of their first epoch.
        budget_s: Seconds after which no unit begins, or None.
    """

    epochs: int
    seed: int = 0
    lanes: int = 4
    order: Ordering = "seeded"
    fuse: int = 0
    at_once: int | None = None
    early: bool = True
    budget_s: float | None = None


@dataclass
class Engine:
    """Runs one session of a study.

    Args:
        records: What is known; changed as the session goes on.
        task: What is done.
        source: The data.
        searcher: Gives the orders.
        executor: Does the units.
        rules: How.
        schedule: Chooses among what could run, or None for the longest remaining time first.
        watchers: Hear of every event.
    """

    records: Records
    task: Task
    source: Source
    searcher: Searcher
    executor: Executor
    rules: Rules
    schedule: Schedule | None = None
    watchers: Sequence[Watcher] = ()
    _kinds: dict[str, tuple[object, ...] | None] = field(default_factory=dict)
    _alone: set[str] = field(default_factory=set)
    _halting: dict[str, tuple[Status, str]] = field(default_factory=dict)
    _out: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._journal = Journal(self.records, self.watchers)
        self._dialogue = Dialogue(self._journal, self.searcher, self.rules.at_once)
        for name in ("states", "scores"):
            (self.records.folder / name).mkdir(exist_ok=True)
        placement = place_evenly(len(self.source.train_rows), self.executor.slots)
        self._hopper = Hopper(placement, self.schedule, self.rules.order)
        self._out = [0] * self.executor.slots
        self._began = time.time() - self.records.running_s

    # The session ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until nothing is left to do, or the budget is spent."""
        self._journal.write("session", {"workers": self.executor.slots})
        try:
            self._dialogue.pick_up()
            while True:
                self._obey()
                self._dialogue.ask()
                self._begin_epochs()
                spent = self.rules.budget_s is not None and self._now() - self.records.offset_s >= self.rules.budget_s
                if not spent:
                    self._dispatch()
                if not any(self._out):
                    if spent or not len(self._hopper):
                        break
                    continue
                for message in self.executor.wait(0.2):
                    if isinstance(message, Lost):
                        self._lost(message)
                    else:
                        self._ended(message)
            self._journal.write("rest", {"over": not spent, "at": self._now()}, durable=True)
        finally:
            self._journal.close()

    def _now(self) -> float:
        return time.time() - self._began

    # Units ---------------------------------------------------------------------------------------------------------

    def _begin_epochs(self) -> None:
        """Make jobs of the configurations that wait without one, together where they may be."""
        busy = {name for job in self._hopper.jobs.values() for name in job.configs}
        ready = [self.records.configs[name] for name in self.records.waiting if name not in busy]
        groups: dict[object, list[Config]] = {}
        for config in ready:
            groups.setdefault(self._group(config), []).append(config)
        for group in groups.values():
            size = max(1, self.rules.fuse)
            if self._sampling(group[0]) is not None:
                size = -(-len(group) // self.executor.slots)
            for begin in range(0, len(group), size):
                self._hopper.add(self._job(group[begin : begin + size]))

    def _group(self, config: Config) -> object:
        """Return what configurations of one job have in common: an architecture, or how their batches are sampled."""
        name = config.name
        if name in self._alone or config.warm == config.version:
            return name
        found = self._alike(config)
        if found is None:
            return name
        visited = tuple(config.visits[config.epoch * self.records.partitions :])
        place = (config.epoch, config.version, visited, config.peeked, config.until)
        lane = 0 if self.source.in_time else config.number % self.rules.lanes
        return (found, lane, config.params.get("batch_size"), place)

    def _alike(self, config: Config) -> tuple[object, ...] | None:
        name = config.name
        if self.rules.fuse < 2 and not self.source.in_time:
            return None
        if name not in self._kinds:
            try:
                with seeded(self.task.seed):
                    made = as_trainee(self.task.build(config.params), config.params)
                if made.sampling is not None:
                    self._kinds[name] = (made.sampling,)
                    hash(made.sampling)
                else:
                    self._kinds[name] = signature(made) if self.rules.fuse > 1 else None
            except Exception:  # the unit itself will report it
                self._kinds[name] = None
        return self._kinds[name]

    def _sampling(self, config: Config) -> Sampling | None:
        """Return how a configuration's batches are sampled, if that is known and may be shared."""
        kind = self._kinds.get(config.name)
        return kind[0] if kind is not None and isinstance(kind[0], Sampling) else None

    def _job(self, group: Sequence[Config]) -> Job:
        first, parts = group[0], self.records.partitions
        lane = first.number % self.rules.lanes
        order = visiting_order(self.rules.seed, first.epoch, lane, parts, in_time=self.source.in_time)
        visited = first.visits[first.epoch * parts :]
        left = [partition for partition in order if partition not in visited]
        early = self.rules.early and first.epoch == 0
        slices = len(self.source.slice_rows)
        begun = len(visited)
        peeks = [place % slices for place in range(begun, parts - 1)] if early else []
        pending = early and 0 < begun < parts and not first.peeked
        seconds = [sum(self._rate(one) for one in group) * rows for rows in self.source.train_rows]
        return Job(
            tuple(one.name for one in group),
            first.number,
            first.epoch,
            left,
            seconds,
            peeks=peeks,
            begun=bool(first.scores or first.peeks),
            peek=(begun - 1) % slices if pending else None,
        )

    def _rate(self, config: Config) -> float:
        """Return the seconds a row that a configuration takes: measured, or the mean of those measured so far."""
        if config.train_rows:
            return config.train_s / config.train_rows
        rows = self.records.train_rows
        return self.records.train_s / rows if rows else 1.0

    def _dispatch(self) -> None:
        """Give every idle worker a unit, then fetch ahead for the busy ones while there is enough to choose from."""
        for level in range(self.executor.depth):
            for slot in range(self.executor.slots):
                if self._out[slot] != level:
                    continue
                if level and len(self._hopper) <= 2 * self.executor.slots:
                    return
                unit = self._hopper.next(slot, only_training=bool(level))
                if unit is not None:
                    self._out[slot] += 1
                    self.executor.submit(slot, self._work(unit))

    def _work(self, unit: Unit) -> Work:
        configs = [self.records.configs[name] for name in unit.configs]
        done = len(configs[0].visits) - unit.epoch * self.records.partitions
        trains = unit.phase == "train"
        return Work(
            unit,
            tuple(one.params for one in configs),
            tuple(self.records.state_path(one.name, one.version) if one.version else None for one in configs),
            tuple(one.version for one in configs),
            tuple(one.warm == one.version for one in configs),
            tuple(self.records.state_path(one.name, one.version + 1) if trains else None for one in configs),
            begins=trains and done == 0,
            ends=trains and done + 1 == self.records.partitions,
            together=self._sampling(configs[0]) is not None,
        )

    def _ended(self, outcome: Outcome) -> None:
        """Write down what a unit gave, end who failed, and go on with the rest."""
        self._out[outcome.slot] -= 1
        unit = outcome.unit
        if not self._hopper.runs(unit):
            return
        failed = [one for one in outcome.results if isinstance(one, Failed)]
        if any(one.kind in ("fusion", "state") for one in failed) and self._again(unit, failed):
            return
        good = [one for one in outcome.results if isinstance(one, Reached)]
        if good:
            self._journal.write("unit", self._unit_event(outcome, good))
        over = self._hopper.done(unit)
        for bad in failed:
            self._fail(bad.config, bad.reason)
        if failed and not over:
            self._hopper.drop(unit.configs[0])
        for one in good:
            self._after(self.records.configs[one.config], over=over, phase=unit.phase)

    def _again(self, unit: Unit, failed: Sequence[Failed]) -> bool:
        """Try once more in another way: a group one by one, a torn state from the one before. Say whether it helps."""
        self._hopper.lost(unit)
        if len(unit.configs) > 1:
            self._alone.update(unit.configs)
            self._hopper.drop(unit.configs[0])
            return True
        config = self.records.configs[unit.configs[0]]
        before = config.version
        self._dialogue.check_state(config)
        if config.version == before or unit.attempt + 1 >= MOST_ATTEMPTS:
            self._hopper.drop(config.name)
            self._journal.write(
                "end", {"config": config.name, "status": "failed", "reason": failed[0].reason}, durable=True
            )
            self._dialogue.tell_if_searched(config.name)
        else:
            self._hopper.drop(config.name)
        return True

    def _unit_event(self, outcome: Outcome, good: Sequence[Reached]) -> dict[str, Json]:
        unit, results = outcome.unit, list[Json]()
        for one in good:
            if one.values is None:
                result: dict[str, Json] = {"checksum": one.checksum, "size": one.size_bytes, "loss": one.loss}
            else:
                if unit.phase == "validate":
                    self._keep_values(one)
                result = {"value": float(one.values.astype(np.float64).mean())}
            results.append({"config": one.config, "rows": one.rows, **result})
        return {
            **{"worker": outcome.slot, "partition": unit.partition, "epoch": unit.epoch, "phase": unit.phase},
            **{"begin": round(outcome.begin - self._began, 6), "end": round(outcome.end - self._began, 6)},
            **{"hop": round(outcome.hop_s, 6), "cpu": round(outcome.cpu_s, 6), "attempt": unit.attempt},
            "results": results,
        }

    def _keep_values(self, one: Reached) -> None:
        """Store the values of a validation, one an example; those of the epoch before the last go."""
        assert one.values is not None
        config = self.records.configs[one.config]
        path = self.records.values_path(one.config, config.epoch + 1)
        small = one.values.astype(np.uint8)
        aside = path.with_name(f".{path.name}")
        np.save(aside, small if np.array_equal(small, one.values) else one.values)
        aside.replace(path)
        if config.epoch > 1:
            self.records.values_path(one.config, config.epoch - 1).unlink(missing_ok=True)

    def _after(self, config: Config, *, over: bool, phase: str) -> None:
        """Remove what is not needed any more; stop, pause or finish a configuration that is due."""
        if phase == "train" and config.version > _KEPT_VERSIONS:
            old = self.records.state_path(config.name, config.version - _KEPT_VERSIONS)
            old.unlink(missing_ok=True)
        if config.name in self._halting:
            status, reason = self._halting.pop(config.name)
            self._halt(config, status, reason)
        elif over and config.status == "waiting" and config.epoch >= config.until:
            if config.until not in config.told:
                self._dialogue.tell(config)
            else:
                self._journal.write("end", {"config": config.name, "status": "finished"})

    def _lost(self, lost: Lost) -> None:
        """Let a unit be done again; end a configuration at which workers keep dying."""
        self._out[lost.slot] -= 1
        if not self._hopper.runs(lost.unit):
            return
        names = list(lost.unit.configs)
        attempts = lost.unit.attempt
        if lost.began:
            attempts = self._hopper.lost(lost.unit)
            self._journal.write("lost", {"configs": cast("Json", names), "worker": lost.slot, "reason": lost.reason})
        else:
            job = self._hopper.jobs[names[0]]
            job.running = None
        if attempts >= MOST_ATTEMPTS:
            self._hopper.drop(names[0])
            if len(names) > 1:
                self._alone.update(names)
                return
            self._fail(names[0], f"{lost.reason} {attempts} times")

    def _fail(self, name: str, reason: str) -> None:
        """End a configuration for a reason, and let its searcher know."""
        self._journal.write("end", {"config": name, "status": "failed", "reason": reason}, durable=True)
        self._dialogue.tell_if_searched(name)

    # Steering ------------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Carry out the commands that came since."""
        for command in read_commands(self.records.folder, self.records.num_commands):
            problem = self._carry_out_command(command)
            number = self.records.num_commands + 1
            self._journal.write("command", {"number": number, "text": str(command), "problem": problem}, durable=True)

    def _carry_out_command(self, command: Command) -> str:
        if command.do == "add":
            self._dialogue.add(self._free_name(), command.params, self.rules.epochs, "", warm=False, searched=False)
            return ""
        if command.config not in self.records.configs:
            return f"no configuration {command.config!r}"
        config = self.records.configs[command.config]
        if command.do == "stop":
            if not config.alive:
                return f"{config.name} is {config.status}"
            job = next((job for job in self._hopper.jobs.values() if config.name in job.configs), None)
            if job is not None and job.running is not None:
                self._halting[config.name] = ("stopped", "by hand")
            else:
                self._halt(config, "stopped", "by hand")
        elif command.do == "resume":
            until = command.epochs or max(self.rules.epochs, config.until)
            if config.status == "waiting" or config.epoch >= until:
                return f"{config.name} is {config.status} after {config.epoch} epochs"
            self._journal.write("end", {"config": config.name, "status": "paused", "reason": "", "leaves": True})
            self._dialogue.check_state(config)
            self._journal.write("go", {"config": config.name, "until": until})
        else:
            until = command.epochs or max(self.rules.epochs, config.until)
            params = {**config.params, **command.params}
            self._dialogue.add(self._free_name(), params, until, config.name, warm=command.warm, searched=False)
        return ""

    def _free_name(self) -> str:
        return f"c{len(self.records.configs)}"

    def _halt(self, config: Config, status: Status, reason: str) -> None:
        """End a configuration that no unit runs; the others of its group go on without it."""
        for name, job in list(self._hopper.jobs.items()):
            if config.name in job.configs and job.running is None:
                self._hopper.drop(name)
        self._journal.write("end", {"config": config.name, "status": status, "reason": reason}, durable=True)
        self._dialogue.tell_if_searched(config.name)
