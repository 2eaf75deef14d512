"""What a few batches would take, by formulas alone: for data that is not at hand, or where nothing may be run.

Batches are still sampled, for how much of them is distinct no formula knows; what is not run is the model.
"""

from __future__ import annotations

import torch

from stepwell.core import Cost, Machine
from stepwell.core.shapes import Batcher, Model
from stepwell.plan.given import Build
from stepwell.plan.options import Setting
from stepwell.plan.probe import Probe
from stepwell.plan.reuse import Foreseen
from stepwell.plan.statistics import duplicates
from stepwell.storage import EventLog


def assume(
    build: Build,
    log: EventLog,
    batcher: Batcher,
    model: Model,
    setting: Setting,
    machine: Machine,
    reused: Foreseen | None = None,
) -> Probe:
    """Return what one average batch would take.

    Args:
        build: Makes the pipeline, whose stages know their own costs.
        log: The training events.
        batcher: Where they are cut.
        model: The model; its weights are counted.
        setting: Hops and neighbours.
        machine: The measured rates.
        reused: What batches hold if embeddings are reused.
    """
    num_batches = max(1, sum(1 for _ in batcher.cuts(log, 0)))
    size = max(1, round(len(log) / num_batches))
    tree = build(log, batcher).predict(machine)
    nodes = [(node.name, node.predicted * (1 / num_batches)) for _, node in reversed(tree.rows())]
    stages = tuple(node for node in nodes if not node[0].startswith("Plan "))
    before = tuple(node for node in nodes if node[0].startswith("Plan "))
    return Probe(1, size, stages, step_cost(log, size, model, setting, machine, reused), before)


def step_cost(
    log: EventLog, size: int, model: Model, setting: Setting, machine: Machine, reused: Foreseen | None = None
) -> Cost:
    """Return the cost of one step: products over the distinct rows, attention over their neighbours, fixed costs.

    A matrix product runs three times (forward, and back to rows and to weights), at two operations a weight and row.
    """
    if reused is None:
        about = duplicates(log, size, setting.hops, k=setting.k)
        rows, nodes = sum(about.targets), about.nodes
    else:
        rows, nodes = reused.targets, reused.nodes
    weights = sum(p.numel() for p in model.parameters()) if isinstance(model, torch.nn.Module) else 0
    products = 6.0 * weights * (rows / max(setting.hops, 1) + nodes / 2) / machine.flops_per_s
    seconds = machine.step_overhead_s * (1 + setting.hops) + products + rows * setting.k / machine.slots_per_s
    return Cost(rows, None, seconds, calls=1, core_s=seconds * machine.threads)
