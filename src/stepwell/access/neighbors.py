"""The stage between queries and a model: who stood around each target before it was asked.

For every hop the distinct (node, time) targets are sampled once and become a `Level`; the level below is made of the
targets themselves and their neighbours. Below the last level stand the distinct `nodes`, beside it the distinct
`events`, so that features, memory and messages are fetched once a batch.

Visibility is a prefix of the log's positions. `as_of="event"`: a query at time `t` sees the events strictly before
`t`; ties stay hidden. `as_of="batch"`: it sees the events at positions before its batch; a tie may be cut by the
border, as in the TGB protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import expm1
from typing import Literal, cast

import numpy as np

from stepwell.access.dedup import (
    BATCH,
    EVENT,
    NODE,
    distinct_ids,
    distinct_nodes,
    next_targets,
    query_keys,
    root_targets,
)
from stepwell.core import Batch, Cost, Draw, Ids, Level, Machine, Statistics
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Accuracy, Sampler
from stepwell.storage import EventLog

AsOf = Literal["event", "batch"]
HopTime = Literal["edge", "root"]
KeyedBy = Literal["node_time", "node"]

_DEDUP_KEYS_PER_S = 5e7  # one probe of a table that fits the second-level cache, two cores of 2020
_CALL_S = 6e-5  # dispatch of the kernels of one batch


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Sample the past of a batch's sources and candidates, `hops` levels deep, each distinct target once.

    Guarantee: no level holds an event that its own query may not see, and a target's sample depends on its node,
    time and visible prefix alone (and the epoch, for random samplers), never on what else stands in the batch.

    Args:
        log: The log; the whole snapshot is visible, whatever view is given.
        sampler: Who is picked among the visible events.
        hops: Levels, at least 1.
        as_of: What a query sees, `"event"` or `"batch"`.
        hop_time: When a neighbour is asked in turn: at its edge's time (which can be memoised) or at the root's.
        keyed_by: `"node_time"`: distinct (node, time) targets. `"node"`: one target a node, asked at the time of the
            batch's first event; exact only if the batch is frozen, so it wants `as_of="batch"`, and beyond one hop
            `hop_time="root"`.
        seed: Keys the draws of random samplers.

    Raises:
        InvalidValueError: If an option is unknown or `keyed_by="node"` meets options it cannot keep.

    Cost:
        O(Q + U K) a hop for Q queries and U distinct targets, in four kernel calls without the interpreter lock.
    """

    log: EventLog
    sampler: Sampler
    hops: int = 1
    as_of: AsOf = "event"
    hop_time: HopTime = "edge"
    keyed_by: KeyedBy = "node_time"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hops < 1:
            raise InvalidValueError("hops", self.hops, "at least 1")
        for name, allowed in (("as_of", AsOf), ("hop_time", HopTime), ("keyed_by", KeyedBy)):
            choices = allowed.__args__  # type: ignore[attr-defined]
            if getattr(self, name) not in choices:
                raise InvalidValueError(name, getattr(self, name), " or ".join(map(repr, choices)))
        if self.keyed_by == "node":
            if self.as_of != "batch":
                raise InvalidValueError("as_of", self.as_of, "'batch' with keyed_by='node'")
            if self.hops > 1 and self.hop_time != "root":
                raise InvalidValueError("hop_time", self.hop_time, "'root' with keyed_by='node' and several hops")

    @property
    def needs(self) -> frozenset[str]:
        """The queries."""
        return frozenset({"src", "candidate", "time", "event"})

    @property
    def gives(self) -> frozenset[str]:
        """The levels, the rows of the queries in them, and the distinct nodes and events below."""
        return frozenset({"levels", "src_row", "candidate_row", "nodes", "events"})

    @property
    def reads(self) -> frozenset[str]:
        """No state."""
        return frozenset()

    @property
    def writes(self) -> frozenset[str]:
        """No state."""
        return frozenset()

    @property
    def accuracy(self) -> Accuracy:
        """Exact, unless the sampler says that its picks are within a bound (T-PPR lists)."""
        found: Accuracy = getattr(self.sampler, "accuracy", "same")
        return found

    def __str__(self) -> str:
        parts = [str(self.sampler), f"as_of={self.as_of}"]
        if self.hops > 1:
            parts += [f"hops={self.hops}", f"hop_time={self.hop_time}"]
        if self.keyed_by == "node":
            parts.append("keyed_by=node")
        return f"Neighbors({', '.join(parts)})"

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with its levels."""
        log_time = np.asarray(self.log.snapshot.time)
        key = NODE if self.keyed_by == "node" else BATCH if self.as_of == "batch" else EVENT
        src, candidate, at, event = (cast("Ids", batch.array(name)) for name in ("src", "candidate", "time", "event"))
        node, time, before, src_row, candidate_row = root_targets(src, candidate, at, event, log_time, key)
        levels, nodes, events = self.below(node, time, before, batch.slice.epoch)
        return batch.give(levels=levels, src_row=src_row, candidate_row=candidate_row, nodes=nodes, events=events)

    def below(self, node: Ids, time: Ids, before: Ids, epoch: int) -> tuple[tuple[Level, ...], Ids, Ids]:
        """Return the levels of distinct targets, and the distinct nodes and events below and beside them.

        Args:
            node: Targets, int64 `[U]`.
            time: When they are asked, int64 `[U]`.
            before: Their visible prefix of the log, int64 `[U]`.
            epoch: Keys the draws of random samplers.
        """
        index, log_time = self.log.index, np.asarray(self.log.snapshot.time)
        draw = Draw(self.seed, "neighbors", epoch)
        levels: list[Level] = []
        nodes: Ids = node
        for hop in range(self.hops):
            hood = self.sampler(index, node, time, before, draw, query_keys(node, time))
            neighbor, place = cast("Ids", hood.node), cast("Ids", hood.event)
            if hop == self.hops - 1:
                nodes, self_row, neighbor_row = distinct_nodes(node, neighbor)
                levels.append(Level(node, time, before, hood, self_row, neighbor_row, neighbor_row))
                break
            below = next_targets(node, time, before, neighbor, place, log_time, self.hop_time == "edge")
            levels.append(Level(node, time, before, hood, below[3], below[4], below[4]))
            node, time, before = below[:3]
        events, placed = _number_events(levels)
        return placed, nodes, events

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Predict one epoch: rows are those of the widest level, or the distinct events if these are more."""
        calls = max(1.0, stats.num_rows / stats.batch_size)
        queries = stats.batch_size * (1.0 + max(stats.candidates, 1))
        targets = expected_distinct(queries, stats.num_nodes) if self.keyed_by == "node" else queries
        rows, seconds, size_bytes = targets, _CALL_S + queries / _DEDUP_KEYS_PER_S, 8.0 * queries
        for _ in range(self.hops):
            events = expected_events(targets, self.sampler.k, stats)
            seconds += targets / machine.queries_per_s + targets * 2 * self.sampler.k / _DEDUP_KEYS_PER_S
            size_bytes += targets * (32 + 41 * self.sampler.k)
            rows = max(rows, events)
            targets += events
        return Cost(rows=rows * calls, size_bytes=size_bytes * calls, seconds=seconds * calls)


def expected_distinct(draws: float, population: int) -> float:
    """Return how many distinct ones are expected among uniform draws from a population."""
    return population * -expm1(-draws / population) if population else 0.0


def expected_events(targets: float, k: int, stats: Statistics) -> float:
    """Guess the distinct events that the samples of some targets hold: half of each distinct node's past is shared."""
    filled = min(float(k), max(stats.mean_degree / 2, 1.0))
    return expected_distinct(targets, stats.num_nodes) * filled / 2


def _number_events(levels: list[Level]) -> tuple[Ids, tuple[Level, ...]]:
    """Return the distinct events of all levels, and the levels with the row of each of theirs."""
    shapes = [cast("Ids", level.hood.event).shape for level in levels]
    flat = [cast("Ids", level.hood.event).ravel() for level in levels]
    events, rows = distinct_ids(flat[0] if len(flat) == 1 else np.concatenate(flat))
    ends = np.cumsum([len(part) for part in flat]).tolist()
    placed = tuple(
        replace(level, event_row=rows[end - len(part) : end].reshape(shape))
        for level, part, end, shape in zip(levels, flat, ends, shapes, strict=True)
    )
    return events, placed
