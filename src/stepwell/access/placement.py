"""Placement: what an epoch will touch in each column family, and who stays in a faster tier.

The batches of an epoch are known before it begins, negatives included, because everything random is keyed. Making them
once without features gives one trace a family; a policy with a budget turns these into capacities and moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from stepwell.buffer.interval import DensityGreedy
from stepwell.buffer.policy import Moves, Policy, Replacement
from stepwell.buffer.split import split_budget, split_by_volume
from stepwell.buffer.trace import Trace
from stepwell.core import Batch, Ids
from stepwell.core.errors import UnknownNameError
from stepwell.storage import EventLog
from stepwell.storage.units import to_bytes


@dataclass(frozen=True, slots=True)
class Family:
    """Rows of one kind that a tier may hold.

    Args:
        num_rows: Rows; ids are in `[0, num_rows)`.
        row_bytes: Bytes of one row.
    """

    num_rows: int
    row_bytes: int


@dataclass(frozen=True, eq=False)
class Placement:
    """One tier for each family, within one budget.

    Args:
        tiers: Who is resident, by family.
        capacity: Rows of each family's tier.
        seconds: What planning took, the making of the traces included.
    """

    tiers: Mapping[str, Replacement]
    capacity: Mapping[str, int]
    seconds: float

    def step(self, family: str, ids: Ids) -> Moves:
        """Take the distinct rows of one family that the next batch touched and return who comes and goes."""
        if family not in self.tiers:
            raise UnknownNameError("family", family, self.tiers)
        return self.tiers[family].step(ids)

    def break_even_epochs(self, saved_s: float) -> float:
        """Return after how many epochs planning has paid, if each epoch with this plan saves `saved_s` seconds."""
        return self.seconds / saved_s if saved_s > 0 else float("inf")


def foresee_placement(
    policy: Policy,
    families: Mapping[str, Family],
    upstream: Callable[[], Iterator[Batch]],
    start: int = 0,
    budget: int | None = None,
) -> Placement:
    """Make an epoch's batches once without features, if the policy wants to know them, and plan it.

    Args:
        policy: The policy with its budget.
        families: The families to place.
        upstream: Makes all batches of the epoch anew, from the first.
        start: The batch that comes first, in a resumed epoch.
        budget: Bytes of the tiers; the policy's by default.

    Cost:
        One pass over the epoch's batches and `collect_traces`; nothing for an online policy.
    """
    begin = time.perf_counter()
    if not policy.foresight:
        return plan_placement(policy, families, budget=budget)
    found = collect_traces(upstream(), families, counts=isinstance(policy, DensityGreedy))
    traces = {name: trace.since(start) for name, trace in found.items()}
    return plan_placement(policy, families, traces, seconds=time.perf_counter() - begin, budget=budget)


def plan_placement(
    policy: Policy,
    families: Mapping[str, Family],
    traces: Mapping[str, Trace] | None = None,
    *,
    seconds: float = 0.0,
    budget: int | None = None,
) -> Placement:
    """Split a policy's budget between families and begin a tier for each.

    With traces the split is that which saves most bytes (for `DensityGreedy` the published one, by raw volume); without
    any it is in proportion to the bytes of all rows. An epoch resumed at batch `start` shows `Trace.since(start)`.

    Args:
        policy: The policy with its budget.
        families: The families.
        traces: What the epoch will touch in each; an online policy needs none.
        seconds: What the making of the traces took.
        budget: Bytes of the tiers; the policy's by default.

    Raises:
        InvalidValueError: If the policy needs traces and there are none.
    """
    begin = time.perf_counter()
    budget = to_bytes(policy.memory, "memory") if budget is None else budget
    if traces is None or not policy.foresight:
        split = _split_by_size(families, budget)
    elif isinstance(policy, DensityGreedy):
        split = split_by_volume({name: traces[name] for name in families}, budget)
    else:
        split = split_budget({name: traces[name] for name in families}, budget)
    capacity = {name: min(f.num_rows, split[name] // max(1, f.row_bytes)) for name, f in families.items()}
    tiers = {
        name: policy.begin(f.num_rows, capacity[name], None if traces is None else traces[name])
        for name, f in families.items()
    }
    return Placement(tiers, capacity, seconds + time.perf_counter() - begin)


def _split_by_size(families: Mapping[str, Family], budget_bytes: int) -> dict[str, int]:
    size = {name: max(1, family.num_rows * family.row_bytes) for name, family in families.items()}
    return {name: min(size[name], budget_bytes * size[name] // sum(size.values())) for name in families}


def families_of(log: EventLog, memory_bytes: int = 0) -> dict[str, Family]:
    """Return the families of a log: its features, and node state of `memory_bytes` a node if there is any."""
    found: dict[str, Family] = {}
    if log.event_feature is not None:
        events = log.event_feature
        found["event_feature"] = Family(events.shape[0], events.shape[1] * events.dtype.itemsize)
    if log.node_feature is not None:
        nodes = log.node_feature
        found["node_feature"] = Family(nodes.shape[0], nodes.shape[1] * nodes.dtype.itemsize)
    if memory_bytes:
        found["memory"] = Family(log.num_nodes, memory_bytes)
    return found


@dataclass(slots=True)
class _Parts:
    ids: list[Ids] = field(default_factory=list)
    counts: list[Ids] = field(default_factory=list)
    writes: list[np.ndarray] = field(default_factory=list)

    def trace(self, family: Family) -> Trace:
        indptr = np.cumsum([0, *map(len, self.ids)], dtype=np.int64)
        ids = np.concatenate([np.zeros(0, np.int64), *self.ids])
        count = np.concatenate(self.counts) if self.counts else None
        writes = np.concatenate(self.writes) if self.writes else None
        return Trace(ids, indptr, family.num_rows, family.row_bytes, count, writes)


def collect_traces(
    batches: Iterable[Batch], families: Mapping[str, Family], *, counts: bool = False
) -> dict[str, Trace]:
    """Return what an epoch's batches touch in each family.

    `event_feature` is touched at `events`, `node_feature` and `memory` at `nodes`; the batch rewrites the memory of its
    events' endpoints.

    Args:
        batches: The epoch's batches with `levels`, `nodes`, `events`; features are not looked at.
        families: The families wanted; those of other names are not touched by batches.
        counts: Whether to count how often the samples name each row before deduplication (`Trace.count`).

    Cost:
        8 bytes an access, 16 with `counts`, 9 for `memory`.
    """
    parts = {name: _Parts() for name in families}
    for batch in batches:
        counted = named_by(batch) if counts and families else None
        for name, part in parts.items():
            ids = cast("Ids", batch.array("events" if name == "event_feature" else "nodes"))
            part.ids.append(ids)
            if counted is not None:
                part.counts.append(counted[name == "event_feature"])
            if name == "memory":
                ends = np.concatenate([batch.array("src"), batch.array("dst")])
                part.writes.append(np.isin(ids, ends))
    return {name: part.trace(families[name]) for name, part in parts.items()}


def named_by(batch: Batch) -> tuple[Ids, Ids]:
    """Return how often a batch's samples name each of its `nodes` and `events` if nothing were deduplicated.

    Cost:
        O(U K) a level.
    """
    num_events, num_nodes = len(batch.array("events")), len(batch.array("nodes"))
    levels = batch.levels_of()
    targets = len(np.asarray(levels[0].node))
    roots = np.concatenate([batch.array("src_row").ravel(), batch.array("candidate_row").ravel()])
    times = np.bincount(roots, minlength=targets)
    events = np.zeros(num_events, np.int64)
    for depth, level in enumerate(levels):
        mask = np.asarray(level.hood.mask)
        repeated = np.broadcast_to(times[:, None], mask.shape)[mask]
        events += _weighed(np.asarray(level.event_row)[mask], repeated, num_events)
        below = num_nodes if depth == len(levels) - 1 else len(np.asarray(levels[depth + 1].node))
        times = _weighed(np.asarray(level.neighbor_row)[mask], repeated, below) + _weighed(
            np.asarray(level.self_row), times, below
        )
    return times, events


def _weighed(rows: Ids, weight: Ids, size: int) -> Ids:
    """Sum the weights of each of `size` rows; rows beyond them are reused embeddings, which read nothing below."""
    return np.bincount(rows, weight, size)[:size].astype(np.int64)
