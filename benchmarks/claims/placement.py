"""Placement of feature rows and node state by a known epoch: what is fetched, against other policies and the optimum.

Counts only: rows of event features (172 floats) and of nodes (644 floats) that a tier with room for 1 to 20 % of the
rows has to fetch over one epoch, negatives included. Deduplication is on for everybody.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from benchmarks.harness import Claim, Result
from benchmarks.streams import stream
from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.placement import Family, collect_traces
from stepwell.buffer import LRU, SIEVE, DensityGreedy, Interval, StaticHot, Trace, TwoQ
from stepwell.buffer.simulate import simulate
from stepwell.buffer.split import split_budget, split_by_volume
from stepwell.testing.oracle import most_saved

STREAMS, EVENTS = ("jodie-wikipedia", "collegemsg", "sx-mathoverflow", "digg-reply"), 40_000
SHARES = (0.01, 0.05, 0.1, 0.2)
EVENT_BYTES, NODE_BYTES = 172 * 4, 644 * 4
_POLICIES = {
    "Interval": Interval(),
    "SIMPLE as published": DensityGreedy(),
    "LRU": LRU(),
    "2Q": TwoQ(),
    "SIEVE": SIEVE(),
    "StaticHot": StaticHot(),
}
_SETTING = (
    "event rows of 172 and node rows of 644 floats, room for 1, 5, 10, 20 % of the rows, 1 and 2 hops of ten newest, "
    "batch 600, one negative, one epoch of the first 40,000 events of jodie-wikipedia, collegemsg, sx-mathoverflow and "
    "digg-reply"
)
CLAIMS = [
    Claim("placement_vs_simple", f"Bytes that Interval fetches over SIMPLE's, worst cell: {_SETTING}", 1.0, "x", "<="),
    Claim("placement_never_above_lru", f"Bytes that Interval fetches over LRU's, worst cell: {_SETTING}", 1, "x", "<="),
    Claim("placement_vs_lru", f"Bytes that Interval fetches over LRU's, median cell: {_SETTING}", 0.8, "x", "<="),
    Claim(
        "placement_optimal",
        "Rows that Interval fetches beyond the optimum of the linear programme, read-only node rows, all 1-hop cells "
        "of the same streams",
        0,
        "rows",
        "<=",
    ),
    Claim(
        "placement_rewritten",
        "Bytes that Interval moves, fetched and written back, over the programme's lower bound, node state rewritten "
        "at the endpoints of every event, worst 1-hop cell of the same streams",
        1.01,
        "x",
        "<=",
    ),
]


@dataclass(frozen=True, slots=True)
class Cell:
    """One stream, depth and family, with its trace.

    Args:
        name: What it is.
        trace: What one epoch touches.
    """

    name: str
    trace: Trace

    def capacity(self, share: float) -> int:
        """Return the rows of a tier for this share."""
        return max(1, int(share * self.trace.num_rows))


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Count every cell; `quick` takes the first 10,000 events of each stream."""
    table: dict[str, dict[str, float | str]] = {}
    to_simple: list[float] = []
    to_lru: list[float] = []
    beyond, worst, seconds = 0.0, 1.0, 0.0
    for name in STREAMS:
        for hops in (1, 2):
            begin = time.perf_counter()
            traces = _traces(name, 10_000 if quick else EVENTS, hops)
            seconds += time.perf_counter() - begin
            for family, trace in traces.items():
                cell = Cell(f"{name} {hops} hop {family}", trace)
                for share in SHARES:
                    row = _moved(cell, share)
                    table[f"{cell.name} {share:.0%}"] = row
                    mine = float(row["Interval"])
                    if family == "memory":
                        if hops == 1:
                            row["bound"] = _bound(cell, share)
                            worst = max(worst, mine / float(row["bound"]))
                        continue
                    to_simple.append(mine / float(row["SIMPLE as published"]))
                    to_lru.append(mine / float(row["LRU"]))
                    if hops == 1 and family == "node_feature":
                        best = len(trace.ids) - most_saved(trace, cell.capacity(share))
                        beyond = max(beyond, round(mine / trace.row_bytes - best, 3))
            table[f"{name} {hops} hop, budget 10 %, both families"] = _split(traces)
    quality = {"cells": float(len(to_lru)), "seconds to sample the epochs": seconds}
    note = (
        "Bytes moved for node state (memory), bytes fetched elsewhere; counts, so that a busy machine changes nothing."
    )
    figures = {
        "placement_vs_simple": max(to_simple),
        "placement_never_above_lru": max(to_lru),
        "placement_vs_lru": statistics.median(to_lru),
        "placement_optimal": beyond,
        "placement_rewritten": worst,
    }
    out_of_reach = (
        " Where rows are only read, Interval fetches the least possible, by Belady's theorem; placement_optimal checks "
        "one-hop node cells. A tier for 1 % of the rows, or one that a 2-hop batch overflows, leaves any policy little "
        "to save."
    )
    whys = {"placement_vs_lru": note + out_of_reach}
    return [Result(claim, figure, table, quality, (0,), whys.get(claim, note)) for claim, figure in figures.items()]


def _traces(name: str, events: int, hops: int) -> dict[str, Trace]:
    log = stream(name, 0, events)
    families = {
        "event_feature": Family(len(log), EVENT_BYTES),
        "node_feature": Family(log.num_nodes, NODE_BYTES),
        "memory": Family(log.num_nodes, NODE_BYTES),
    }
    options = {"negatives": UniformNegatives(), "sampler": Recent(10), "hops": hops}
    return collect_traces(Pipeline(log, FixedBatches(600), **options), families, counts=True)  # type: ignore[arg-type]


def _moved(cell: Cell, share: float) -> dict[str, float | str]:
    """Return the bytes that each policy moves."""
    capacity = cell.capacity(share)
    return {name: float(simulate(p, cell.trace, capacity).moved_bytes) for name, p in _POLICIES.items()}


def _bound(cell: Cell, share: float) -> float:
    """Return the bytes below which no policy comes that rewrites and reads the rows of the trace."""
    nothing = simulate(LRU(), cell.trace, 0)
    return nothing.moved_bytes - most_saved(cell.trace, cell.capacity(share)) * cell.trace.row_bytes


def _split(traces: dict[str, Trace]) -> dict[str, float | str]:
    """Return the bytes fetched for features with a tenth of all bytes, split by exact curves and as published."""
    pair = {name: traces[name] for name in ("event_feature", "node_feature")}
    budget = sum(t.num_rows * t.row_bytes for t in pair.values()) // 10
    found: dict[str, float | str] = {}
    for name, split, policy in (
        ("Interval, split by hit curves", split_budget(pair, budget), Interval()),
        ("Interval, split by raw volume", split_by_volume(pair, budget), Interval()),
        ("SIMPLE as published, split by raw volume", split_by_volume(pair, budget), DensityGreedy()),
    ):
        found[name] = float(sum(simulate(policy, t, split[n] // t.row_bytes).fetched_bytes for n, t in pair.items()))
    return found
