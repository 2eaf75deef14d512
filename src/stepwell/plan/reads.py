"""What is read from below memory when the features do not fit: counted by following each policy over the epoch.

Which rows an epoch touches is known beforehand, so hit rates are counted, not guessed. Without a policy the operating
system keeps pages as it sees fit: about the least recently used, a whole page for each row, one read after the other.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from stepwell.access.placement import Family, collect_traces, families_of, plan_placement
from stepwell.buffer import LRU
from stepwell.buffer.policy import Policy
from stepwell.buffer.simulate import Traffic, simulate
from stepwell.buffer.trace import Trace
from stepwell.core import Batch, Cost, Machine
from stepwell.storage import EventLog

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Reads:
    """What one epoch reads from below.

    Args:
        cost: Rows and bytes read, the seconds that takes, and the share of rows that were at hand.
        plan_s: Seconds of planning, beside the making of the epoch's batches.
    """

    cost: Cost
    plan_s: float = 0.0


def lies_below(array: np.ndarray | None) -> bool:
    """Say whether an array lies in a file and not in memory."""
    base: object = array
    while base is not None:
        if isinstance(base, np.memmap | mmap.mmap):
            return True
        base = getattr(base, "base", None)
    return False


def families_below(log: EventLog, device: str) -> dict[str, Family]:
    """Return the families whose rows must be fetched: from the host to a device, or from files to memory."""
    feature = {"event_feature": log.event_feature, "node_feature": log.node_feature}
    found = families_of(log)
    return {name: found[name] for name in found if device != "cpu" or lies_below(feature[name])}


def traces_of(batches: Iterable[Batch], families: Mapping[str, Family]) -> dict[str, Trace]:
    """Return what the batches of an epoch touch in each family."""
    return collect_traces(batches, families, counts=True)


def reads(
    policy: Policy | None,
    families: Mapping[str, Family],
    traces: Mapping[str, Trace],
    room_bytes: int,
    machine: Machine,
    *,
    device: str = "cpu",
) -> Reads:
    """Follow a policy over an epoch and say what it reads.

    Args:
        policy: The policy; None for what happens without one.
        families: The rows.
        traces: What the epoch touches in each.
        room_bytes: Bytes for rows in the faster tier.
        machine: The measured rates.
        device: Where the rows go.
    """
    if policy is None:
        none = device != "cpu"
        found = [_by_itself(trace, 0 if none else room_bytes // len(families)) for trace in traces.values()]
        return Reads(_cost(found, machine, machine.lone_reads_per_s, device))
    placed = plan_placement(policy, families, traces)
    found = [simulate(policy, traces[name], placed.capacity[name]) for name in families]
    return Reads(_cost(found, machine, machine.random_reads_per_s, device), placed.seconds)


def _by_itself(trace: Trace, room_bytes: int) -> Traffic:
    capacity = min(trace.num_rows, room_bytes // max(PAGE, trace.row_bytes))
    return simulate(LRU(memory=max(1, room_bytes)), trace, capacity)


def _cost(found: Iterable[Traffic], machine: Machine, reads_per_s: float, device: str) -> Cost:
    parts = list(found)
    hits, misses = sum(part.hits for part in parts), sum(part.misses for part in parts)
    size = float(sum(part.fetched_bytes for part in parts))
    if device != "cpu":
        seconds = size / (machine.transfer_bytes_per_s or machine.gather_bytes_per_s)
    else:
        seconds = sum(part.misses * max(1.0, part.row_bytes / PAGE) for part in parts) / reads_per_s
    return Cost(float(misses), size, seconds, hits / max(1, hits + misses))
