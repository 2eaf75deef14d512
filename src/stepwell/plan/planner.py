"""The optimiser of a training epoch: cost every valid combination, take the cheapest, say what the next best costs.

Options of different places hardly act on each other, so each is probed once beside the usual ones, and a combination is
estimated from these; whoever then leads is probed itself, until the leader has been. The product of all places is
small, so nothing cleverer than trying all of it is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from tempfile import TemporaryDirectory
from typing import cast

import torch

from stepwell.access import Pipeline
from stepwell.access.reuse import ReusedNeighbors
from stepwell.buffer.policy import Policy
from stepwell.buffer.trace import Trace
from stepwell.core import Cost, Machine, PlanNode
from stepwell.core.shapes import Batcher, Model
from stepwell.nn import OutOfCore
from stepwell.plan.answer import Plan, Question, Trained
from stepwell.plan.combination import PLACES, Combination, Key, best_of
from stepwell.plan.formula import assume
from stepwell.plan.options import (
    Asked,
    Option,
    Setting,
    allowed,
    batch_options,
    placement_options,
    prefetch_options,
    reuse_options,
    sampler_options,
    step_options,
)
from stepwell.plan.predict import EPOCH, STEP, Work, epoch_of, work_of
from stepwell.plan.probe import Probe, probe, scaled
from stepwell.plan.reads import Reads, reads, traces_of
from stepwell.plan.reasons import Reasons
from stepwell.plan.reuse import Foreseen, can_reuse, foresee, staleness_rows, without_features
from stepwell.plan.room import MemoryRoom
from stepwell.plan.state import measured_state, memory_of, state_cost, state_options, traced
from stepwell.plan.statistics import describe, duplicates
from stepwell.plan.watch import Watched
from stepwell.storage import EventLog

BUSY = 0.8
"""Cores that a step on the CPU had at least, unless other processes took them; below, the plan says so."""
AROUND = 10
"""Batches before and behind those that are probed where embeddings are reused: the store fills in about so many."""
TRACED = 1_000_000
"""Events, from the first on, that policies are followed over; a longer epoch is taken to go on like these."""


@dataclass(eq=False)
class TrainingPlanner:
    """Plans one epoch of training a model on a log.

    Args:
        log: The training events.
        model: The model; probes train copies of it.
        name: What to call the model.
        setting: What is given and not planned.
        question: What was asked, and pinned.
        machine: Where.
        probing: Whether to probe; else formulas decide.
    """

    log: EventLog
    model: Model
    name: str
    setting: Setting
    question: Question
    machine: Machine
    probing: bool = True
    probes: dict[Key, Probe] = field(default_factory=dict)
    reused: dict[Key, Foreseen] = field(default_factory=dict)
    read: dict[tuple[Key, str, int], Reads] = field(default_factory=dict)
    traces: dict[Key, dict[str, Trace]] = field(default_factory=dict)
    touched: dict[Key, Trace] = field(default_factory=dict)
    moved: dict[tuple[Key, str], PlanNode] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> Asked:
        """How exact training must stay."""
        return self.question.accuracy or "exact"

    @cached_property
    def room(self) -> MemoryRoom:
        """What must be held, and what memory leaves."""
        return MemoryRoom(self.log, self.model, self.question, self.setting.device)

    @property
    def room_bytes(self) -> int | None:
        """Bytes left for rows of features, or None if all that is needed fits (or no memory was named)."""
        return self.room.for_rows_bytes

    @property
    def state_room_bytes(self) -> int | None:
        """Bytes for node state in host memory if it lies out of core; None if it does not, or no memory was named."""
        return self.room.for_state_bytes

    @cached_property
    def options(self) -> tuple[tuple[Option[object], ...], ...]:
        """The options of each place that keep the accuracy asked for."""
        asked, setting = self.question, self.setting
        found = (
            batch_options(asked.batches, setting),
            sampler_options(asked.sampler, setting),
            reuse_options(asked.reuse, possible=can_reuse(self.model, setting.hops)),
            placement_options(asked.placement, self.room_bytes if self.room.below else None),
            prefetch_options(asked.prefetch),
            state_options(asked.state, memory_of(self.model), self.state_room_bytes),
            step_options(asked.steps, setting, moves_state=self.room.moves_state),
        )
        return tuple(cast("tuple[Option[object], ...]", allowed(options, self.accuracy)) for options in found)

    def combinations(self) -> Iterator[Combination]:
        """Yield every combination, the usual one first."""
        for one in product(*self.options):
            combined = Combination(*one)  # type: ignore[arg-type]
            if combined.possible:
                yield combined

    def plan(self) -> Plan:
        """Cost all combinations and choose."""
        every = list(self.combinations())
        usual = every[0]
        for one in every:
            if sum(a is not b for a, b in zip(one[:3], usual[:3], strict=True)) <= 1:
                self._probed(one)
        while True:
            trees = {one.names: self.tree(one) for one in every}
            best = best_of(every, {names: tree.predicted.seconds or 0.0 for names, tree in trees.items()})
            if best.probed in self.probes:
                break
            self._probed(best)
        return self._explained(best, every, trees)

    def _probed(self, one: Combination) -> Probe:
        key = one.probed
        if key not in self.probes:
            build, batcher, reused = self._builder(one), one.batches.value, self._foreseen(one)
            if self.probing:
                around = 0 if reused is None else AROUND
                self.probes[key] = probe(
                    build, self.log, batcher, self.model, around=around, device=self.setting.device
                )
            else:
                self.probes[key] = assume(build, self.log, batcher, self.model, self.setting, self.machine, reused)
        return self.probes[key]

    def _foreseen(self, one: Combination) -> Foreseen | None:
        """Return who would be served by kept embeddings, or None if none are kept."""
        if one.reuse.value is None:
            return None
        if one.probed not in self.reused:
            self.reused[one.probed] = foresee(self._builder(one), self.log, one.batches.value)
        return self.reused[one.probed]

    def _estimated(self, one: Combination) -> Probe:
        """Return the probe of a combination; if there is none, the usual one's, changed as each option alone does."""
        if one.probed in self.probes:
            return self.probes[one.probed]
        usual = next(self.combinations())
        of_batches, base = self._probed(usual._replace(batches=one.batches)), self._probed(usual)
        of_sampler = self._probed(usual._replace(sampler=one.sampler))
        of_reuse = self._probed(usual._replace(reuse=one.reuse))
        return scaled(scaled(of_batches, of_sampler, base), of_reuse, base)

    def _builder(self, one: Combination) -> Callable[[EventLog, Batcher], Pipeline]:
        return lambda view, batcher: self._pipeline(view, batcher, one)

    def _pipeline(
        self, view: EventLog, batcher: Batcher, one: Combination, placement: Policy | None = None, prefetch: int = 0
    ) -> Pipeline:
        setting = self.setting
        return Pipeline(
            view,
            batcher,
            negatives=setting.negatives,
            sampler=one.sampler.value,
            hops=setting.hops,
            as_of=setting.as_of,
            hop_time=setting.hop_time,
            keyed_by=setting.keyed_by,
            reuse=one.reuse.value,
            placement=placement,
            prefetch=prefetch,
            seed=setting.seed,
            device=setting.device,
        )

    def tree(self, one: Combination) -> PlanNode:
        """Return the predicted plan of one combination."""
        pipeline = self._pipeline(self.log, one.batches.value, one, None, one.prefetch.value)
        reasons = {node.name: node.why for _, node in pipeline.plan.rows()}
        num_batches = self._num_batches(one.batches)
        work = self._placed(one, work_of(self._estimated(one), num_batches, len(self.log), reasons))
        if one.steps.value:
            saved = self.machine.launch_s * num_batches
            work = replace(work, step=replace(work.step, seconds=max(0.0, (work.step.seconds or 0.0) - saved)))
        if one.state.value is not None and self.room.stored is None:
            work = replace(work, state=self._state_line(one))
        reused = self._foreseen(one)
        if reused is not None:
            work = replace(work, stages=tuple(_with_hits(node, reused.hit_rate) for node in work.stages))
        return epoch_of(
            work,
            one.prefetch.value,
            self.machine,
            device=self.setting.device,
            why=f"{num_batches} steps of {len(self.log) / num_batches:.0f} events",
            step_why=self._about_model(work.step),
        )

    def _state_line(self, one: Combination) -> PlanNode:
        """Return what node state out of core reads and writes, counted over the epoch's batches."""
        memory, policy = memory_of(self.model), one.state.value
        assert memory is not None and policy is not None
        if one.probed not in self.touched:
            self.touched[one.probed] = traced(self._followed(one), memory)
        key = (one.probed, str(policy))
        if key not in self.moved:
            times = len(self.log) / self._traced_events
            self.moved[key] = state_cost(policy, self.touched[one.probed], self.machine, times)
        return self.moved[key]

    def _placed(self, one: Combination, work: Work) -> Work:
        """Return the work with what the placement leaves to be read from below, if the features do not fit."""
        room = self.room_bytes
        if room is None or not self.room.below:
            return work
        key = (one.probed, str(one.placement.value), room)
        if key not in self.read:
            traces = self._traced(one)
            where = self.setting.device
            self.read[key] = reads(one.placement.value, self.room.below, traces, room, self.machine, device=where)
        found = self.read[key].cost * (len(self.log) / self._traced_events)
        stages = tuple(_read_too(node, found) if node.name == "Gather" else node for node in work.stages)
        if one.placement.value is None or not one.placement.value.foresight:
            return replace(work, stages=stages)
        names = [node.name for node in work.stages]
        made = sum(node.predicted.seconds or 0.0 for node in work.stages[: names.index("Gather")])
        planning = self.read[key].plan_s * (len(self.log) / self._traced_events)
        before = PlanNode(
            "Plan Gather",
            "the epoch's batches made once beforehand, without features; then the policy",
            Cost(seconds=made + planning, calls=1),
        )
        return replace(work, stages=stages, before=(*work.before, before))

    @property
    def _traced_events(self) -> int:
        return min(len(self.log), TRACED)

    def _followed(self, one: Combination) -> Pipeline:
        """Return the batches that policies are followed over: those of the first events, without features."""
        view = self.log[: self._traced_events]
        return without_features(self._builder(one)(view, one.batches.value), one.batches.value, 2)

    def _traced(self, one: Combination) -> dict[str, Trace]:
        if one.probed not in self.traces:
            self.traces[one.probed] = traces_of(self._followed(one), self.room.below)
        return self.traces[one.probed]

    def _num_batches(self, batches: Option[Batcher]) -> int:
        if batches.name not in self.counts:
            self.counts[batches.name] = max(1, sum(1 for _ in batches.value.cuts(self.log, 0)))
        return self.counts[batches.name]

    def _about_model(self, step: Cost) -> str:
        weights = sum(p.numel() for p in cast("torch.nn.Module", self.model).parameters())
        how = "a few real steps" if self.probing else "formulas"
        share = (step.core_s or 0.0) / step.seconds if step.seconds else 1.0
        if self.probing and self.setting.device == "cpu" and share < BUSY:
            how += f" on a busy machine: they had {share:.0%} of a core, so wall seconds mean little"
        return f"{self.name}, {weights:,} weights; predicted from {how}"

    def pipeline(self, names: Mapping[str, str]) -> Pipeline:
        """Build the pipeline of a combination, by the names of its options."""
        chosen = []
        for place, options in zip(PLACES, self.options, strict=True):
            chosen.append(next(option for option in options if option.name == names[place]))
        one = Combination(*chosen)  # type: ignore[arg-type]
        return self._pipeline(self.log, one.batches.value, one, one.placement.value, one.prefetch.value)

    def ask(self, question: Question) -> Plan:
        """Plan anew under other conditions, with the probes made so far."""
        return replace(self, question=self.question.but(question)).plan()

    def train(self, pipeline: Pipeline, names: Mapping[str, str]) -> Trained:
        """Train a copy of the model for one epoch; return what it took, and how stale what it reused was."""
        watched, twin = Watched(pipeline), copy.deepcopy(self.model)
        policy = next(option for option in self.options[PLACES.index("state")] if option.name == names["state"]).value
        with TemporaryDirectory(prefix="stepwell-") as folder:
            memory = memory_of(twin)
            if policy is not None and memory is not None and memory.stored is None:
                memory.move(OutOfCore(folder, cast("Policy", policy)))
            whole, step = watched.train(twin, graphed=names["steps"] == "graphed")
            moved = measured_state(twin)
            del twin, memory
        return Trained({EPOCH: whole, STEP: step, **moved}, staleness_rows(watched.staleness))

    def _explained(self, best: Combination, every: list[Combination], trees: dict[tuple[str, ...], PlanNode]) -> Plan:
        costs = {names: tree.predicted for names, tree in trees.items()}
        ranked = sorted(every, key=lambda one: costs[one.names].seconds or 0.0)
        reused = self._foreseen(best)
        rate = None if reused is None else reused.hit_rate
        reasons = Reasons(best, ranked, costs, self.options, self.room, self.setting, self.accuracy, rate)
        memory = "" if self.question.memory is None else f", memory {self.question.memory}"
        title = f"{self.name} on {self.log.name}, {len(self.log):,} events, {self.accuracy}{memory}"
        price = self.question.price_per_core_hour
        return Plan(title, trees[best.names], reasons.choices, reasons.alternatives, self, price, self._about_data())

    def _about_data(self) -> str:
        stats, setting = describe(self.log), self.setting
        shared = duplicates(self.log, setting.batch_size, setting.hops, k=setting.k)
        return (
            f"{stats.num_nodes:,} nodes, the busiest 1 % in {stats.top_share:.0%} of the places; "
            f"{stats.repeat_rate:.0%} of pairs repeat; a node is updated every {stats.update_distance:,.0f} events; "
            f"{shared}"
        )


def _read_too(node: PlanNode, read: Cost) -> PlanNode:
    """Return a stage that also reads rows from below."""
    here = node.predicted
    seconds = (here.seconds or 0.0) + (read.seconds or 0.0)
    return replace(node, predicted=replace(here, size_bytes=read.size_bytes, seconds=seconds, hit_rate=read.hit_rate))


def _with_hits(node: PlanNode, hit_rate: float) -> PlanNode:
    """Return the stage that reuses with its hit rate; others as they are."""
    if node.name != ReusedNeighbors.__name__:
        return node
    return replace(node, predicted=replace(node.predicted, hit_rate=hit_rate))
