"""How often kept embeddings would serve: counted by running the stage over some of the epoch, without a model.

Which embedding serves whom is decided ahead of the model, so it need not be guessed. A short epoch is counted whole. Of
a longer one, consecutive batches in its middle are, after others that fill the store and before others that the policy
looks forward to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from stepwell.access import Gather, Pipeline
from stepwell.access.reuse import ReusedNeighbors
from stepwell.buffer.reuse import ReuseCounts
from stepwell.core import Batch, Cost, Ids, PlanNode
from stepwell.core.shapes import Batcher
from stepwell.nn.reuse import RowReuse
from stepwell.nn.staleness import Staleness
from stepwell.plan.given import Build, Given, part_of
from stepwell.storage import EventLog

COUNTED, AROUND = 40, 20
"""Batches that are counted, and batches before and behind them."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What batches with reuse hold, as means over those counted.

    Args:
        hit_rate: Share of the distinct needs beyond the batch that the store serves, 0 to 1.
        targets: Targets of all levels.
        nodes: Distinct nodes.
    """

    hit_rate: float
    targets: float
    nodes: float


def can_reuse(model: object, hops: int) -> bool:
    """Say whether a model has a layer below its last and reads what is kept of it."""
    return hops > 1 and isinstance(getattr(model, "reuse", None), RowReuse)


def foresee(build: Build, log: EventLog, batcher: Batcher) -> Foreseen:
    """Count who would be served, without a model and without features.

    Args:
        build: Makes a pipeline with reuse; must not prefetch.
        log: The training events.
        batcher: Where they are cut.

    Cost:
        Sampling twice for `COUNTED + 2 AROUND` batches: planned, then made.
    """
    cuts = tuple(batcher.cuts(log, 0))
    first, last = 0, len(cuts)
    if last > COUNTED + 2 * AROUND:
        first = (last - COUNTED) // 2
        last = first + COUNTED
    view, here, warm = part_of(log, cuts, first, last, AROUND)
    pipeline = without_features(build(view, Given(here)), Given(here))
    before, targets, nodes = ReuseCounts(), 0, 0
    for number, batch in enumerate(pipeline.epoch(0), 1):
        if number <= warm:
            before = served(pipeline)
            continue
        targets, nodes = targets + num_targets(batch), nodes + len(batch.array("nodes"))
        if number == warm + last - first:
            break
    after = served(pipeline)
    hits, misses = after.hits - before.hits, after.misses - before.misses
    return Foreseen(hits / max(1, hits + misses), targets / (last - first), nodes / (last - first))


def without_features(pipeline: Pipeline, batches: Batcher, prefetch: int = 0) -> Pipeline:
    """Return a pipeline of other batches through the same stages, but for the features."""
    stages = [stage for stage in pipeline.stages if type(stage) is not Gather]
    return Pipeline(pipeline.source, batches, stages=stages, prefetch=prefetch)


def num_targets(batch: Batch) -> int:
    """Return the distinct targets of all levels of a batch, or its events if it has no levels."""
    return sum(len(cast("Ids", level.node)) for level in batch.levels_of()) if "levels" in batch else len(batch)


def served(pipeline: Pipeline) -> ReuseCounts:
    """Return how neighbours were served in the running epoch, over all layers."""
    parts = (counts for stage in pipeline.stages if isinstance(stage, ReusedNeighbors) for counts in stage.counts)
    return sum(parts, ReuseCounts())


def staleness_rows(found: Staleness | None) -> dict[str, tuple[PlanNode, ...]]:
    """Return what a plan says of staleness after a run: lines below the stage that reuses, by its name."""
    if found is None:
        return {}
    lines = []
    for layer in found.layers:
        places = sum(group.num for group in found.of(layer))
        lines.append(PlanNode(f"Staleness, layer {layer}", found.about(layer), measured=Cost(rows=places)))
    about = f"{found.outputs}; sampled in one batch of {found.every}, without dropout"
    cost = Cost(rows=found.outputs.num, seconds=found.seconds, calls=found.batches)
    return {ReusedNeighbors.__name__: (*lines, PlanNode("Staleness, output", about, measured=cost))}


def measured(pipeline: Pipeline) -> dict[str, Cost]:
    """Return what the latest epoch took, by the name of the node, with the hit rate of reuse."""
    costs = pipeline.measured
    name = ReusedNeighbors.__name__
    if name in costs:
        costs[name] = replace(costs[name], hit_rate=served(pipeline).hit_rate)
    return costs
