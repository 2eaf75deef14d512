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
from typing import NamedTuple, cast

import torch

from stepwell.access import Pipeline
from stepwell.access.placement import Family
from stepwell.access.reuse import ReusedNeighbors
from stepwell.buffer.policy import Policy
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.buffer.trace import Trace
from stepwell.core import Cost, Machine, PlanNode
from stepwell.core.shapes import Batcher, Model, Sampler
from stepwell.nn import OutOfCore
from stepwell.plan.answer import Alternative, Chosen, Plan, Question, Trained
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
from stepwell.plan.reads import Reads, families_below, reads, traces_of
from stepwell.plan.reuse import Foreseen, can_reuse, foresee, staleness_rows, without_features
from stepwell.plan.state import (
    BESIDE_BYTES,
    measured_state,
    memory_of,
    needed_bytes,
    state_cost,
    state_options,
    traced,
)
from stepwell.plan.statistics import describe, duplicates
from stepwell.plan.watch import Watched
from stepwell.storage import EventLog
from stepwell.storage.units import to_bytes

WORTH = 0.03
"""Share of an epoch that another option than the usual one must save to be taken."""
BUSY = 0.8
"""Cores that a step on the CPU had at least, unless other processes took them; below, the plan says so."""
AROUND = 10
"""Batches before and behind those that are probed where embeddings are reused: the store fills in about so many."""
TRACED = 1_000_000
"""Events, from the first on, that policies are followed over; a longer epoch is taken to go on like these."""
PLACES = ("batches", "sampler", "reuse", "placement", "prefetch", "state", "steps")
LAUNCH = 0.9
"""Share of a step's fixed cost that a CUDA graph saves: launches. Taken from its design, not measured on a device."""


Key = tuple[str, str, str]


class Combination(NamedTuple):
    """One option a place."""

    batches: Option[Batcher]
    sampler: Option[Sampler]
    reuse: Option[EmbeddingReuse | None]
    placement: Option[Policy | None]
    prefetch: Option[int]
    state: Option[Policy | None]
    steps: Option[bool]

    @property
    def possible(self) -> bool:
        """Whether the options go together: graphs want batches of one shape and nothing kept beside the model."""
        plain = self.batches.name == "fixed" and self.reuse.value is None and self.state.value is None
        return plain or not self.steps.value

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each place's option."""
        return tuple(option.name for option in self)

    @property
    def probed(self) -> Key:
        """What of it a probe depends on."""
        return str(self.batches.value), str(self.sampler.value), str(self.reuse.value)


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

    @property
    def accuracy(self) -> Asked:
        """How exact training must stay."""
        return self.question.accuracy or "exact"

    @cached_property
    def need_bytes(self) -> int:
        """Bytes of features, of the model's weights and state, and of the index."""
        return self._feature_bytes + self._fixed_bytes + self._sizes[1]

    @cached_property
    def _feature_bytes(self) -> int:
        return sum(m.nbytes for m in (self.log.event_feature, self.log.node_feature) if m is not None)

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Bytes of weights, and of node state."""
        return needed_bytes(cast("torch.nn.Module", self.model), memory_of(self.model))

    @cached_property
    def _fixed_bytes(self) -> int:
        ends = 1 if self.log.snapshot.directed else 2
        return self._sizes[0] + len(self.log.snapshot) * (ends * 16 + 16) + 8 * self.log.num_nodes

    @cached_property
    def _moves_state(self) -> bool:
        """Whether node state is out of core: already, because it was asked to, or as memory does not hold it."""
        pin, memory = self.question.state, memory_of(self.model)
        if pin is not None or memory is None:
            return pin not in (None, "host")
        if memory.stored is not None:
            return True
        if self.question.memory is None:
            return False
        return self._fixed_bytes + self._sizes[1] > to_bytes(self.question.memory, "memory")

    @property
    def state_room_bytes(self) -> int | None:
        """Bytes for node state in host memory if it lies out of core; None if it does not, or no memory was named."""
        if not self._moves_state or self.question.memory is None:
            return None
        if self._stored is not None:
            return to_bytes(self._stored.memory, "memory")
        left = to_bytes(self.question.memory, "memory") - self._fixed_bytes - BESIDE_BYTES * self.log.num_nodes
        features = sum(family.num_rows * family.row_bytes for family in self._below.values())
        free = left - (self._feature_bytes - features)
        return max(0, round(free * self._sizes[1] / max(1, self._sizes[1] + features)))

    @property
    def room_bytes(self) -> int | None:
        """Bytes left for rows of features, or None if all that is needed fits (or no memory was named)."""
        if self.question.memory is None:
            return None
        given = to_bytes(self.question.memory, "memory")
        if self.need_bytes <= given and not self._moves_state:
            return None
        state = self._sizes[1]
        if self._moves_state:
            state = (self.state_room_bytes or 0) + BESIDE_BYTES * self.log.num_nodes
        return max(0, given - self._fixed_bytes - state)

    @cached_property
    def options(self) -> tuple[tuple[Option[object], ...], ...]:
        """The options of each place that keep the accuracy asked for."""
        asked, setting = self.question, self.setting
        found = (
            batch_options(asked.batches, setting),
            sampler_options(asked.sampler, setting),
            reuse_options(asked.reuse, possible=can_reuse(self.model, setting.hops)),
            placement_options(asked.placement, self.room_bytes if self._below else None),
            prefetch_options(asked.prefetch),
            state_options(asked.state, memory_of(self.model), self.state_room_bytes),
            step_options(asked.steps, setting, moves_state=self._moves_state),
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
            best = _best(every, {names: tree.predicted.seconds or 0.0 for names, tree in trees.items()})
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
            saved = LAUNCH * self.machine.step_overhead_s * num_batches
            work = replace(work, step=replace(work.step, seconds=max(0.0, (work.step.seconds or 0.0) - saved)))
        if one.state.value is not None and self._stored is None:
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

    @property
    def _stored(self) -> Policy | None:
        """The policy of a model whose state is out of core already: its probes read it, so nothing is added."""
        memory = memory_of(self.model)
        return None if memory is None or memory.stored is None else memory.stored.policy

    def _state_line(self, one: Combination) -> PlanNode:
        """Return what node state out of core reads and writes, counted over the epoch's batches."""
        memory, policy = memory_of(self.model), one.state.value
        assert memory is not None and policy is not None
        if one.probed not in self.touched:
            view = self.log[: self._traced_events]
            batches = without_features(self._builder(one)(view, one.batches.value), one.batches.value, 2)
            self.touched[one.probed] = traced(batches, memory)
        key = (one.probed, str(policy))
        if key not in self.moved:
            times = len(self.log) / self._traced_events
            self.moved[key] = state_cost(policy, self.touched[one.probed], self.machine, times)
        return self.moved[key]

    def _placed(self, one: Combination, work: Work) -> Work:
        """Return the work with what the placement leaves to be read from below, if the features do not fit."""
        room = self.room_bytes
        if room is None or not self._below:
            return work
        key = (one.probed, str(one.placement.value), room)
        if key not in self.read:
            traces = self._traced(one)
            where = self.setting.device
            self.read[key] = reads(one.placement.value, self._below, traces, room, self.machine, device=where)
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

    @cached_property
    def _below(self) -> dict[str, Family]:
        return families_below(self.log, self.setting.device)

    @property
    def _traced_events(self) -> int:
        return min(len(self.log), TRACED)

    def _traced(self, one: Combination) -> dict[str, Trace]:
        if one.probed not in self.traces:
            view = self.log[: self._traced_events]
            batches = without_features(self._builder(one)(view, one.batches.value), one.batches.value, 2)
            self.traces[one.probed] = traces_of(batches, self._below)
        return self.traces[one.probed]

    def _num_batches(self, batches: Option[Batcher]) -> int:
        counts = self.__dict__.setdefault("_counts", {})
        if batches.name not in counts:
            counts[batches.name] = max(1, sum(1 for _ in batches.value.cuts(self.log, 0)))
        return cast("int", counts[batches.name])

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
        kept = {name: getattr(self.question, name) for name in Question.__slots__}
        given = {name: getattr(question, name) for name in Question.__slots__ if getattr(question, name) is not None}
        other = replace(self, question=Question(**{**kept, **given}))
        return other.plan()

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
        alternatives = tuple(Alternative(one.names, costs[one.names], one is best) for one in ranked)
        choices = tuple(self._reason(place, i, best, ranked, costs) for i, place in enumerate(PLACES))
        memory = "" if self.question.memory is None else f", memory {self.question.memory}"
        title = f"{self.name} on {self.log.name}, {len(self.log):,} events, {self.accuracy}{memory}"
        price = self.question.price_per_core_hour
        return Plan(title, trees[best.names], choices, alternatives, self, price, self._about_data())

    def _about_data(self) -> str:
        stats, setting = describe(self.log), self.setting
        shared = duplicates(self.log, setting.batch_size, setting.hops, k=setting.k)
        return (
            f"{stats.num_nodes:,} nodes, the busiest 1 % in {stats.top_share:.0%} of the places; "
            f"{stats.repeat_rate:.0%} of pairs repeat; a node is updated every {stats.update_distance:,.0f} events; "
            f"{shared}"
        )

    def _reason(
        self, place: str, i: int, best: Combination, ranked: list[Combination], costs: dict[tuple[str, ...], Cost]
    ) -> Chosen:
        option = cast("Option[object]", best[i])
        others = [one for one in ranked if one[i] is not option and _differ(one, best) == [i]]
        next_name, next_s = (others[0].names[i], costs[others[0].names].seconds) if others else ("", None)
        here = costs[best.names].seconds or 0.0
        if option.pinned and not (place == "state" and self._stored is not None):
            why = "you chose it"
        elif place == "placement" and len(self.options[i]) == 1:
            fits = "all rows fit" if self.room_bytes is None else "the rows are in memory already"
            why = "no memory was named" if self.question.memory is None else fits
        elif place == "state":
            why = self._about_state()
        elif place == "steps" and len(self.options[i]) == 1:
            no_graphs = "no CUDA device" if not self.setting.device.startswith("cuda") else "node state is out of core"
            why = f"{no_graphs}, so no graphs"
        elif place == "reuse" and not can_reuse(self.model, self.setting.hops):
            why = "for models of two hops or more that reuse"
        elif not others:
            why = (
                f"the only one that keeps {self.accuracy}"
                if place in ("batches", "sampler", "reuse")
                else "the only one"
            )
        elif option is self.options[i][0]:
            why = f"the usual one; no other saves {WORTH:.0%}"
        else:
            usual = next(one for one in others if one[i] is self.options[i][0])
            why = f"saves {1 - here / (costs[usual.names].seconds or here):.0%} against {usual.names[i]}"
        reused = self._foreseen(best) if place == "reuse" else None
        if reused is not None:
            why += f"; {reused.hit_rate:.0%} of the needs beyond a batch are kept"
        return Chosen(place, option.name, why, option.accuracy, next_name, next_s)

    def _about_state(self) -> str:
        memory = memory_of(self.model)
        if memory is None:
            return "the model has no node memory that could be elsewhere"
        if memory.stored is not None:
            return "the model keeps it there"
        if not self._moves_state:
            return "no memory was named" if self.question.memory is None else "it fits beside weights and index"
        return f"its {self._sizes[1]:,} bytes do not fit beside {self._fixed_bytes:,} of weights and index"


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


def _differ(one: Combination, other: Combination) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a is not b]


def _best(every: list[Combination], seconds: Mapping[tuple[str, ...], float]) -> Combination:
    """Return the fastest, or of those about as fast the one nearest to the usual one."""
    least = min(seconds.values())
    usual = every[0]
    near = [one for one in every if seconds[one.names] <= least * (1 + WORTH)]
    return min(near, key=lambda one: (len(_differ(one, usual)), seconds[one.names]))
