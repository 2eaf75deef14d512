"""From what a few batches took to what an epoch takes: the tree that a plan prints.

Making batches and learning them overlap if batches are made ahead. On a device they do so freely. On the CPU both want
the same cores: an epoch can then end no sooner than the cores' work, shared among them, allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepwell.core import Cost, Machine, PlanNode
from stepwell.plan.probe import Probe

EPOCH, STEP = "Train one epoch", "Model step"


@dataclass(frozen=True, slots=True)
class Work:
    """What one epoch takes, part by part, before anything overlaps.

    Args:
        num_batches: Batches of the epoch.
        num_events: Its events.
        stages: The pipeline's stages, from reading to the transfer, each with its reason.
        step: The model's steps.
        before: What is done before the first batch (planning a placement or a reuse).
        state: What the steps wait for besides: node state out of core; None if it is in host memory.
    """

    num_batches: int
    num_events: int
    stages: tuple[PlanNode, ...]
    step: Cost
    before: tuple[PlanNode, ...] = ()
    state: PlanNode | None = None

    @property
    def make_s(self) -> float:
        """Seconds of making all batches on one thread."""
        return sum(node.predicted.seconds or 0.0 for node in self.stages)


def work_of(probe: Probe, num_batches: int, num_events: int, reasons: Mapping[str, str]) -> Work:
    """Scale what a few batches took to an epoch: by events, because batches may differ in size."""
    times = num_events / probe.num_events
    stages = tuple(
        PlanNode(name, reasons.get(name, ""), replace(cost * times, calls=num_batches)) for name, cost in probe.stages
    )
    before = tuple(PlanNode(name, reasons.get(name, ""), replace(cost * times, calls=1)) for name, cost in probe.before)
    return Work(num_batches, num_events, stages, replace(probe.step * times, calls=num_batches), before)


def epoch_of(work: Work, prefetch: int, machine: Machine, *, device: str, why: str, step_why: str) -> PlanNode:
    """Return the plan of one epoch.

    Args:
        work: What is to be done.
        prefetch: Batches made ahead.
        machine: Where.
        device: Where the model runs.
        why: About the whole.
        step_why: About the model.
    """
    make_s, step_s = work.make_s, work.step.seconds or 0.0
    state_s = 0.0 if work.state is None else work.state.predicted.seconds or 0.0
    step_core_s = step_s if work.step.core_s is None else work.step.core_s
    before_s = sum(node.predicted.seconds or 0.0 for node in work.before)
    stretch = 1.0
    if prefetch == 0:
        total = make_s + step_s + state_s
    else:
        if device == "cpu" and step_s:
            stretch = max(1.0, (make_s + step_core_s) / machine.cores / step_s)
        workers = min(prefetch, machine.cores)
        total = max(step_s * stretch + state_s, make_s / workers) + make_s / max(work.num_batches, 1)
    node: tuple[PlanNode, ...] = work.before
    for stage in work.stages:
        seconds = (stage.predicted.seconds or 0.0) * stretch
        node = (replace(stage, predicted=replace(stage.predicted, seconds=seconds), children=node),)
    node = node if work.state is None else (work.state, *node)
    step = replace(work.step, seconds=step_s * stretch)
    core_s = make_s + step_core_s + before_s
    whole = Cost(work.num_events, _bytes(work.stages), total + before_s, calls=work.num_batches, core_s=core_s)
    return PlanNode(EPOCH, why, whole, children=(PlanNode(STEP, step_why, step, children=node),))


def _bytes(stages: tuple[PlanNode, ...]) -> float:
    return sum(node.predicted.size_bytes or 0.0 for node in stages)


@dataclass(frozen=True, slots=True)
class Miss:
    """The node of a plan whose prediction was furthest off.

    Args:
        name: The node.
        predicted_s: Seconds predicted.
        measured_s: Seconds measured.
        share: How far off the whole epoch was: measured over predicted, minus one.
    """

    name: str
    predicted_s: float
    measured_s: float
    share: float

    def __str__(self) -> str:
        return (
            f"furthest off: {self.name}, predicted {self.predicted_s:.3g} s, measured {self.measured_s:.3g} s; "
            f"the epoch took {abs(self.share):.0%} {'more' if self.share > 0 else 'less'} than predicted"
        )


def largest_miss(plan: PlanNode) -> Miss | None:
    """Return the stage whose seconds were furthest from what was predicted, or None before a run.

    The root stands for the whole and is no stage, unless it is alone.

    Args:
        plan: A plan with its measured column.
    """
    nodes = [node for _, node in plan.rows()]
    stages = nodes[1:] or nodes
    found = [
        (abs(node.measured.seconds - node.predicted.seconds), node)
        for node in stages
        if node.measured is not None and node.measured.seconds is not None and node.predicted.seconds is not None
    ]
    if not found:
        return None
    node = max(found, key=lambda pair: pair[0])[1]
    assert node.measured is not None
    return Miss(node.name, node.predicted.seconds or 0.0, node.measured.seconds or 0.0, _share(plan))


def _share(plan: PlanNode) -> float:
    measured = None if plan.measured is None else plan.measured.seconds
    return measured / plan.predicted.seconds - 1 if measured is not None and plan.predicted.seconds else 0.0
