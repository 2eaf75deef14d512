"""What a log is like, as far as it decides which plan is best: tails, repeats, update distances, duplicates.

One pass counts what concerns whole nodes. How many distinct rows a batch touches depends on bursts that no formula
knows, so a few real batches, spread over the stream, are sampled and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from stepwell.access import Neighbors, Recent, UniformNegatives
from stepwell.access.adaptive import update_distance
from stepwell.access.negatives import Candidates
from stepwell.core import Ids, Level, Slice, Statistics
from stepwell.storage import EventLog
from stepwell.storage.snapshot import Snapshot

_known: WeakKeyDictionary[Snapshot, dict[tuple[int, int], Statistics]] = WeakKeyDictionary()


def describe(log: EventLog) -> Statistics:
    """Return the statistics of a view with its degree tail and update distance; computed once a view.

    Cost:
        Three passes over the events, some nanoseconds each.
    """
    kept = _known.setdefault(log.snapshot, {})
    view = (log.begin, log.end)
    if view not in kept:
        degree = np.bincount(log.src, minlength=log.num_nodes) + np.bincount(log.dst, minlength=log.num_nodes)
        tail, share, distance = _quantiles(degree), _top_share(degree), update_distance(log)
        kept[view] = replace(log.statistics(), degrees=tail, top_share=share, update_distance=distance)
    return kept[view]


def _quantiles(degree: Ids) -> tuple[float, ...]:
    busy = degree[degree > 0]
    return tuple(float(q) for q in np.quantile(busy, (0.5, 0.9, 0.99, 1.0))) if len(busy) else ()


def _top_share(degree: Ids) -> float:
    busy = np.sort(degree[degree > 0])[::-1]
    return float(busy[: max(1, len(busy) // 100)].sum() / busy.sum()) if len(busy) else 0.0


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What batches of one size share, as means over a few real batches.

    Args:
        batch_size: Events a batch.
        targets: Distinct (node, time) targets of each level, the batch's own queries first.
        queries: What each level would hold without deduplication.
        nodes: Distinct nodes below the last level.
        events: Distinct events over all levels.
    """

    batch_size: int
    targets: tuple[float, ...]
    queries: tuple[float, ...]
    nodes: float
    events: float

    @property
    def kept(self) -> tuple[float, ...]:
        """Share of each level's queries that are distinct, 0 to 1."""
        return tuple(u / max(q, 1.0) for u, q in zip(self.targets, self.queries, strict=True))

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.0%}" for share in self.kept)
        return f"batch {self.batch_size}: {shares} of the queries are distinct, {self.nodes:.0f} nodes"


def duplicates(log: EventLog, batch_size: int = 200, hops: int = 1, *, k: int = 10, places: int = 4) -> Duplicates:
    """Sample a few batches, spread evenly over the stream, and count what is distinct in them.

    Args:
        log: The events.
        batch_size: Events a batch.
        hops: Levels of neighbours.
        k: Newest events a query.
        places: Batches to sample.

    Cost:
        That of sampling `places` batches; milliseconds.
    """
    stages = (Candidates(log, UniformNegatives()), Neighbors(log, Recent(k), hops))
    size = min(batch_size, len(log))
    counted = []
    for place in range(places):
        begin = int((place + 0.5) / places * max(len(log) - size, 0))
        batch = log.read(Slice(0, place, begin, begin + size))
        for stage in stages:
            batch = stage(batch)
        levels = batch.levels_of()
        asked = np.concatenate([batch.array("src_row"), batch.array("candidate_row").ravel()])
        times = np.bincount(asked, minlength=len(levels[0].node))
        queries = [float(times.sum())]
        for level, below in pairwise(levels):
            times = _times_below(level, times, len(below.node))
            queries.append(float(times.sum()))
        targets = [float(len(level.node)) for level in levels]
        counted.append([*targets, *queries, float(len(batch.array("nodes"))), float(len(batch.array("events")))])
    mean = np.mean(counted, axis=0).tolist()
    return Duplicates(size, tuple(mean[:hops]), tuple(mean[hops : 2 * hops]), mean[-2], mean[-1])


def _times_below(level: Level, times: Ids, num_below: int) -> Ids:
    """Return how often each row of the level below would be asked, if nothing were shared."""
    found = np.zeros(num_below, np.int64)
    np.add.at(found, cast("Ids", level.self_row), times)
    mask = np.asarray(level.hood.mask)
    np.add.at(found, cast("Ids", level.neighbor_row)[mask], np.broadcast_to(times[:, None], mask.shape)[mask])
    return found
